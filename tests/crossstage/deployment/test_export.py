"""Detectors as files. The fast tests export one tiny DINO, the slow ones every toy config and more."""

import importlib.util
import json
import os
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import crossstage
from benchmarks.export import LARGE, default_names, rows, spread
from crossstage.cli import export as command
from crossstage.cli import exporting
from crossstage.config import LazyCall as L
from crossstage.config import LazyConfig, find_config, instantiate
from crossstage.deployment.agreement import LIMITS, compared
from crossstage.deployment.exported_detector import ExportedDetector, in_multiples, rounded_up
from crossstage.deployment.facts import Facts
from crossstage.deployment.load import loaded
from crossstage.deployment.write import Shape, write
from crossstage.errors import InputError
from crossstage.modeling.backbone import DeformableStages
from tests.random_scenes import image_batch
from tests.tiny_models import random_detector, randomised, tiny

ROOT = Path(__file__).resolve().parents[3]
NAMES = ["red box", "grüner Kasten"]
SWIN = ("dino_swin_tiny_224_4scale_12ep",)
NO_FACTS = Facts((), None, "", "", "")


def everything(test):
    """Marks a test that exports for a minute or more: only with the environment variable EXPORT_EVERYTHING."""
    asked = pytest.mark.skipif("EXPORT_EVERYTHING" not in os.environ, reason="needs EXPORT_EVERYTHING=1")
    return pytest.mark.slow(asked(test))


def example():
    """The module examples/onnx_predict.py."""
    spec = importlib.util.spec_from_file_location("onnx_predict", ROOT / "examples" / "onnx_predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one_layer(name: str, **overrides: object):
    """The tiny node of a config with one layer, which exports in seconds."""
    node = tiny(LazyConfig.load(find_config(name)).model)
    node.decoder.num_layers = 1
    if "num_layers" in node.encoder:
        node.encoder.num_layers = 1
    for key, value in overrides.items():
        OmegaConf.update(node, key, value)
    return node


def assert_agree(model, detect, pixels):
    limits, precise = LIMITS["float32"], exporting.precise(model)
    found = compared(exporting.eager(model), detect, pixels, precise=precise, limits=limits, rounds=1)
    assert found.within(limits), found


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with the config and weights of a tiny DINO, what `crossstage export` wrote of it, and a picture."""
    folder = tmp_path_factory.mktemp("exported")
    cfg = LazyConfig.load(find_config("dino_toy"))
    cfg.model = one_layer("dino_toy", num_classes=len(NAMES))
    LazyConfig.save(cfg, folder / "config.yaml")
    detector = randomised(cfg.model).float()
    torch.save({"model": detector.state_dict(), "class_names": NAMES}, folder / "weights.pth")
    pixels = exporting.picture(3, (96, 128), ()).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(folder / "picture.png")
    given = ["--config-file", str(folder / "config.yaml"), "--weights", str(folder / "weights.pth")]
    status = command.main([*given, "--size", "96", "128", "--batch", "1", "--rounds", "1"])
    assert status == 0
    return folder


def test_the_file_says_what_it_needs_to_be_used(exported):
    _, facts = loaded(exported / "weights.onnx", form="onnx")
    assert json.loads(facts["class_names"]) == NAMES
    assert json.loads(facts["resize"]).keys() == {"short_edge", "max_size"}
    assert len(facts["weights_sha256"]) == 64 and facts["weights"] == "weights.pth"
    (exported / "again.yaml").write_text(facts["config"], encoding="utf-8")
    assert LazyConfig.load(exported / "again.yaml").model == LazyConfig.load(exported / "config.yaml").model


def test_the_graph_has_no_loop_and_no_sequence(exported):
    import onnx

    kinds = {node.op_type for node in onnx.load(exported / "weights.onnx").graph.node}
    assert not {kind for kind in kinds if kind in ("Loop", "Scan", "If") or "Sequence" in kind}


def test_onnxruntime_reads_int32_indices_and_fuses_no_norm(exported, tmp_path):
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(exported / "weights.onnx", options, providers=["CPUExecutionProvider"])
    assert "SkipLayerNormalization" not in {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    graph = onnx.load(exported / "weights.onnx").graph
    maker = {output: node for node in graph.node for output in node.output}
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    samples = [node for node in graph.node if node.op_type == "Gather" and "index_select" in node.name]
    assert samples and all(types[maker[node.input[1]].output[0]] == onnx.TensorProto.INT32 for node in samples)


def test_the_example_without_torch_finds_what_predict_finds(exported):
    import onnxruntime

    text = (ROOT / "examples" / "onnx_predict.py").read_text(encoding="utf-8")
    assert "torch" not in text and len(text.splitlines()) < 60
    session = onnxruntime.InferenceSession(exported / "weights.onnx", providers=["CPUExecutionProvider"])
    boxes, scores, labels = example().detect(session, Image.open(exported / "picture.png"))
    detector = crossstage.load(exported / "config.yaml", exported / "weights.pth", device="cpu")
    found = detector.predict(exported / "picture.png", threshold=0.0)
    assert len(found) == len(scores) > 0
    np.testing.assert_allclose(boxes, found.boxes_xyxy.numpy(), atol=1e-3)
    np.testing.assert_allclose(scores, found.scores.numpy(), atol=1e-3)
    np.testing.assert_array_equal(labels, found.labels.numpy())


def test_the_example_resizes_by_the_rule_of_the_file():
    def session(shape, rule=None, multiples=(1, 1)):
        facts = Namespace(custom_metadata_map={"resize": json.dumps(rule), "multiples": json.dumps(multiples)})
        return Namespace(get_inputs=lambda: [Namespace(shape=shape)], get_modelmeta=lambda: facts)

    size = example().input_size
    assert size(session([1, 3, 480, 640]), 1000, 100) == (640, 480)
    free = [1, 3, "h", "w"]
    assert size(session(free), 1000, 100) == (1000, 100)
    assert size(session(free, {"short_edge": 800, "max_size": 1333}), 640, 480) == (1067, 800)
    assert size(session(free, {"short_edge": 800, "max_size": 1333}), 1000, 100) == (1333, 133)
    assert size(session(free, {"short_edge": None, "max_size": 512}), 1024, 100) == (512, 50)
    assert size(session(free, {"short_edge": 800, "max_size": 1333}, (224, 112)), 640, 480) == (1120, 896)


def test_a_file_that_differs_is_removed(exported, tmp_path, monkeypatch, capsys):
    file = tmp_path / "wrong.onnx"
    file.write_bytes((exported / "weights.onnx").read_bytes())
    cfg = LazyConfig.load(exported / "config.yaml")
    torch.manual_seed(1)
    other = ExportedDetector(instantiate(cfg.model))
    args = Namespace(format="onnx", rounds=1)
    with pytest.raises(InputError, match="the file was removed"):
        exporting.checked(other, file, [exporting.picture(0, (96, 128), ())[None]], args, "float32")
    assert not file.exists()


@everything
@pytest.mark.parametrize("name", ["adamixer_toy"])
def test_a_dynamic_file_of_torch_agrees_in_two_sizes_and_batches(name, tmp_path):
    detector = randomised(one_layer(name)).float()
    model, file = ExportedDetector(detector), tmp_path / "model.pt2"
    write(model, file, form="torch-export", shape=Shape(), facts=NO_FACTS)
    detect, facts = loaded(file, form="torch-export")
    assert facts["precision"] == "float32"
    for batch, size in ((2, (96, 128)), (1, (131, 100))):
        pixels = torch.stack([exporting.picture(index, size, ()) for index in range(batch)])
        assert_agree(model, detect, pixels)


@pytest.mark.parametrize("name", ["dino_toy", "deqdet_toy", "stage_interactor_toy", "dab_detr_toy"])
def test_the_function_gives_the_detections_of_the_detector_in_pixels_of_the_input(name):
    detector, batch = random_detector(name).eval(), image_batch(1, 1)
    boxes, scores, labels = ExportedDetector(detector)(batch.pixels)
    height, width = batch.pixels.shape[-2:]
    with torch.no_grad():
        for image, found in enumerate(detector(batch)):
            kept = (boxes[image, :, 2:] > boxes[image, :, :2]).all(-1)
            scale = boxes.new_tensor([width, height] * 2) / boxes.new_tensor(batch.original_sizes[image][::-1] * 2)
            torch.testing.assert_close(boxes[image][kept], found.boxes_xyxy * scale)
            torch.testing.assert_close(scores[image][kept], found.scores)
            torch.testing.assert_close(labels[image][kept], found.labels)


def test_a_file_detects_the_chosen_classes_alone():
    node = one_layer("dino_toy", **{"postprocess.classes": [2, 0]})
    detector = randomised(node).float().eval()
    _, scores, labels = ExportedDetector(detector)(image_batch(1, 1).pixels)
    assert set(labels.unique().tolist()) == {0, 2}
    assert scores.equal(scores.sort(dim=1, descending=True).values)


def test_a_swin_of_any_size_takes_whole_windows_alone():
    detector = random_detector("dino_swin_toy").eval()
    model = ExportedDetector(detector, any_size=True)
    assert model.multiples == (224, 224)  # windows of 7 x 7 cells, on maps down to a stride of 32
    assert ExportedDetector(detector).multiples == (1, 1)
    assert ExportedDetector(random_detector("dino_toy"), any_size=True).multiples == (1, 1)
    for size in ((223, 448), (224, 447)):
        with pytest.raises(RuntimeError, match="height and width must be multiples of 224 and 224"):
            model(exporting.picture(0, size, ())[None])
    pixels = exporting.picture(0, (224, 448), ())[None]
    assert in_multiples(pixels, *model.multiples).equal(pixels)
    assert rounded_up((224, 449), model.multiples) == (224, 672)
    assert Shape().example((224, 384)).shape == (2, 3, 448, 768)
    with pytest.raises(ValueError, match="any_size=True"):
        write(ExportedDetector(detector), Path("unused.onnx"), form="onnx", shape=Shape(), facts=NO_FACTS)


@pytest.mark.parametrize(
    ("name", "overrides", "says"),
    [
        ("dino_toy", {"postprocess.nms_threshold": 0.7}, "model.postprocess.nms_threshold=0.7: the number of boxes"),
        ("deqdet_toy", {"decoder.solver.tolerance": 0.01}, "model.decoder.solver.tolerance=0.01: .*eval_steps"),
    ],
)
def test_what_cannot_be_exported_is_refused_by_its_key(name, overrides, says):
    node = tiny(LazyConfig.load(find_config(name)).model)
    for key, value in overrides.items():
        OmegaConf.update(node, key, value)
    with pytest.raises(InputError, match=f"^{says}"):
        ExportedDetector(instantiate(node))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--size", "640"], "--size 640: expected height and width"),
        (["--size", "0", "640"], "--size 0 640: expected height and width"),
        (["--batch", "many"], "--batch many: expected a number of images"),
        (["--rounds", "0"], "--rounds 0: expected at least 1"),
        (["--output", "nowhere/a.onnx"], "--output nowhere/a.onnx: the folder nowhere does not exist"),
        (["--weights", "nowhere.pth"], "nowhere.pth: no such file"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(exported, given, says, capsys):
    known = ["--config-file", str(exported / "config.yaml"), "--weights", str(exported / "weights.pth")]
    assert command.main([*known, *given]) == 2
    assert capsys.readouterr().err.startswith(f"error: {says}")


def test_a_missing_package_is_named(exported, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    known = ["--config-file", str(exported / "config.yaml"), "--weights", str(exported / "weights.pth")]
    assert command.main(known) == 2
    assert "pip install 'crossstage[export]'" in capsys.readouterr().err


@everything
@pytest.mark.parametrize("name", [*default_names(), *SWIN])
@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_every_detector_exports(name, kind):
    if kind == "dynamic" and name in (*LARGE, *SWIN):
        pytest.skip("the toy config of its family is tested")
    for line, agrees in rows(name, spread(name), "onnx", kind, 1):
        assert agrees and "refused" not in line, line


@everything
def test_deformable_convolutions_and_convnext_export(tmp_path):
    deformable, convnext = one_layer("dino_toy"), one_layer("dino_toy")
    deformable.backbone.edits = [L(DeformableStages)(stages=(3, 4))]
    convnext.backbone.update(name="convnext_atto", options={}, frozen_norm=False)
    convnext.neck.in_channels = [80, 160, 320]
    for node in (deformable, convnext):
        model, file = ExportedDetector(randomised(node).float()), tmp_path / "model.onnx"
        write(model, file, form="onnx", shape=Shape(), facts=NO_FACTS)
        detect, _ = loaded(file, form="onnx")
        pixels = exporting.picture(0, (192, 160), ())[None]
        assert_agree(model, detect, pixels)
