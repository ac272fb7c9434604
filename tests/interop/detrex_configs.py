"""What configs with CSLA and DCA are in a real detrex: `detrex_configs.py FOLDER` prints JSON.

FOLDER is empty; the configs of the READMEs are run there, beside links to detrex's own.
"""

import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detrex_models import SOURCES, tiny
from detrex_on_cpu import batch, stub

from crossstage.config import LazyCall as L
from csla.detrex import with_csla
from csla.detrex_check import build, load_model
from dca.detrex import with_dca

ROOT = Path(__file__).resolve().parents[2]


def readme_configs(folder: Path) -> dict[str, dict[str, str]]:
    """Output folders of the complete configs that the READMEs print, in the folder where they say that it belongs."""
    import detrex
    from detectron2.config import LazyConfig

    configs = Path(detrex.__file__).resolve().parents[1] / "projects/dino/configs"
    (folder / "dino-resnet").mkdir()
    (folder / "models").symlink_to(configs / "models")
    for file in (configs / "dino-resnet").glob("*.py"):
        (folder / "dino-resnet" / file.name).symlink_to(file)
    found = {}
    for package in ("csla", "dca"):
        blocks = re.findall(r"```python\n(.*?)```", (ROOT / package / "README.md").read_text(), re.DOTALL)
        (block,) = [block for block in blocks if "import dataloader" in block]
        file = folder / "dino-resnet" / f"{package}.py"
        file.write_text(block)
        config = LazyConfig.load(str(file))
        found[package] = {"train": config.train.output_dir, "evaluator": config.dataloader.evaluator.output_dir}
    return found


def as_python(model: Any) -> str:
    """The model by detectron2's LazyConfig.to_py, which formats by black; a stand-in for black leaves it as it is."""
    from detectron2.config import LazyConfig
    from omegaconf import OmegaConf

    black = types.ModuleType("black")
    black.InvalidInput, black.Mode = ValueError, dict
    black.format_str = lambda text, mode: text
    sys.modules.setdefault("black", black)
    return LazyConfig.to_py(OmegaConf.create({"model": model}, flags={"allow_objects": True}))


def saved(model: Any, folder: Path) -> dict[str, Any]:
    """Losses and label rule of a model that is built from a stored config, and those of the model itself."""
    from detectron2.config import LazyConfig
    from omegaconf import OmegaConf

    LazyConfig.save(OmegaConf.create({"model": model}, flags={"allow_objects": True}), str(folder / "config.yaml"))
    again = LazyConfig.load(str(folder / "config.yaml")).model
    first, second = build(model), build(again)
    second.load_state_dict(first.state_dict())  # YAML sorts the keys, so that weights are drawn in another order
    totals = []
    for built in (first, second):
        torch.manual_seed(1)
        totals.append(sum(built(batch(2, 1)).values()).item())
    return {"totals": totals, "printed": repr(second.criterion).splitlines()[:3]}


def loaded(folder: Path) -> dict[str, bool]:
    """Weights of a plain DINO in one with two cross-attentions, by detectron2's checkpointer."""
    from detectron2.checkpoint import DetectionCheckpointer

    plain, dual = build(tiny("DINO")), build(with_dca(tiny("DINO")))
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter += 1
    second = {name: value.clone() for name, value in dual.state_dict().items() if ".second." in name}
    DetectionCheckpointer(plain, str(folder)).save("plain")
    DetectionCheckpointer(dual).load(str(folder / "plain.pth"))
    now, weights = dual.state_dict(), plain.state_dict()
    attentions = {name: name.replace(".first.", ".") for name in now if ".first." in name}
    return {
        "first": all(torch.equal(now[name], weights[before]) for name, before in attentions.items()),
        "many": len(attentions) > 10,
        "second": all(torch.equal(now[name], value) for name, value in second.items()),
    }


def refusal(call: Callable[[], Any]) -> str:
    """The message of the error that a call raises, after the name of its type."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def mask_dino() -> None:
    """Build MaskDINO's criterion with CSLA; its class loss is called otherwise."""
    name = "projects.maskdino.modeling.criterion.SetCriterion"
    points = {"num_points": 4, "oversample_ratio": 3.0, "importance_sample_ratio": 0.75}
    arguments = {"num_classes": 8, "matcher": None, "weight_dict": {}, "eos_coef": 0.1, "losses": ["labels"]}
    build(with_csla(L(dict)(criterion=L(name)(**arguments, **points))))


def refusals() -> dict[str, str]:
    """What happens with detectors that cannot be adapted."""
    size = SOURCES["SQR-DETR"].size
    return {
        "SQR-DETR": refusal(lambda: build(with_csla(tiny("SQR-DETR")))(batch(2, 1, size=size))),
        "DETR": refusal(lambda: with_csla(load_model("detr", "detr_r50"))),
        "PnP-DETR": refusal(lambda: with_csla(load_model("pnp_detr", "pnp_detr_r50"))),
        "AlignDETR": refusal(lambda: with_csla(load_model("align_detr", "aligndetr_r50"))),
        "MaskDINO": refusal(mask_dino),
        "Deformable-DETR": refusal(lambda: build(with_csla(tiny("Deformable-DETR"), groups=["denoising"]))),
        "Anchor-DETR, DCA": refusal(lambda: with_dca(tiny("Anchor-DETR"))),
    }


def main() -> None:
    torch.set_num_threads(1)
    stub()
    folder = Path(sys.argv[1])
    model = with_dca(with_csla(tiny("DINO"), localisation=True))
    result = {
        "readme": readme_configs(folder),
        "python": as_python(model),
        "saved": saved(model, folder),
        "loaded": loaded(folder),
        "refusals": refusals(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
