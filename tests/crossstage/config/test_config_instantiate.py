"""instantiate: what a node becomes, and what is said when it cannot be built."""

import dataclasses
import enum

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from crossstage.config import LazyCall as L
from crossstage.config import LazyConfig, instantiate
from crossstage.config.instantiate import BuildError, TargetError
from crossstage.config.stages import StageFactory, stage_factories
from crossstage.errors import InputError


class Record:
    """Keeps what it is given."""

    def __init__(self, **arguments):
        self.__dict__.update(arguments)


class Layer:
    def __init__(self, channels, dropout=0.0):
        if dropout < 0:
            raise ValueError(f"dropout must be >= 0,\n  got {dropout}")
        if dropout > 1:
            self.dig(dropout)
        self.channels = channels

    @staticmethod
    def dig(dropout):
        raise {2: RuntimeError, 3: ValueError, 4: OSError}[dropout]("from deep inside")


class Stack:
    """Builds a layer per stage, as a decoder does."""

    per_stage = ("layer",)

    def __init__(self, layer, num_layers=2, head=None):
        (self.factory,) = stage_factories(self, layer=layer)
        self.layers = [self.factory(stage) for stage in range(num_layers)]
        self.head = head


class Numbered:
    """Has a stage of its own, as a sampler does."""

    def __init__(self, part=None, parts=(), *, stage: int = -1):
        self.part, self.parts, self.stage = part, parts, stage


class Careless:
    def __init__(self):
        Layer(chanels=3)


def fixed(seed: int = 0) -> int:
    return seed


@dataclasses.dataclass(frozen=True)
class Spec:
    channels: int
    strides: tuple[int, ...] = (8, 16)


@dataclasses.dataclass
class Plain:
    channels: int = 1


@dataclasses.dataclass
class OfTensor:
    values: torch.Tensor


class Colour(enum.Enum):
    RED = 1


def model(**layer):
    node = L(Layer)(channels="${up:channels}", **layer)
    root = {"model": {"decoder": L(Stack)(layer=node)}, "channels": 4}
    return DictConfig(root, flags={"allow_objects": True})


@pytest.mark.parametrize("value", [5, "text", None, {"xx": "yy"}, {"xx": L(Layer)(channels=1)}, Record(), (1, 2)])
def test_what_is_no_node_is_returned_as_it_is(value):
    assert instantiate(value) == value
    assert isinstance(value, tuple) or instantiate(value) is value


def test_a_mapping_of_plain_values_is_returned_as_it_is_and_keeps_its_parent():
    cfg = OmegaConf.create({"train": {"amp": {"on": "${train.flag}"}, "flag": True}})
    assert instantiate(cfg.train) is cfg.train
    assert instantiate(L(Record)(train=cfg.train)).train.flag is True


def test_containers_are_built_inside():
    cfg = L(Record)(a=[1, [L(Layer)(channels=1)]], b={"c": {"d": L(Layer)(channels=2)}, "e": 3}, t=(1, 2), n=None)
    built = instantiate(cfg)
    assert type(built.a) is list
    assert built.a[1][0].channels == 1
    assert isinstance(built.b, DictConfig)
    assert (built.b.c.d.channels, built.b.e) == (2, 3)
    assert type(built.t) is list  # omegaconf knows no tuples
    assert built.n is None
    assert instantiate((1, L(Layer)(channels=1)))[1].channels == 1
    assert [type(x) for x in instantiate([L(Layer)(channels=1), 2])] == [Layer, int]


def test_built_objects_in_a_mapping_are_the_objects_themselves():
    cfg = DictConfig({"a": L(Record)(), "b": torch.nn.Linear(1, 1)}, flags={"allow_objects": True})
    built = instantiate(cfg)
    assert built.b is cfg.b
    assert isinstance(built.a, Record)
    assert built.a is built.a


@pytest.mark.parametrize("target", [Layer, f"{__name__}.Layer"])
def test_targets_are_objects_and_names(target):
    assert instantiate(L(target)(channels=3)).channels == 3
    assert instantiate({"_target_": target, "channels": 3}).channels == 3


def choose(which: str):
    return {"layer": Layer, "spec": Spec}[which]


def test_a_target_may_be_the_result_of_a_node():
    assert instantiate(L(L(choose)(which="layer"))(channels=3)).channels == 3
    assert instantiate(L(L(choose)(which="spec"))(channels=3)) == Spec(3)


@pytest.mark.parametrize("reload", [False, True])
def test_dataclasses_survive(reload, tmp_path):
    spec = Spec(3, (4,))
    cfg = L(Record)(spec=spec, plain=Plain(2), many=[Plain(3)], deep={"x": Plain(4)}, kind=Spec)
    if reload:
        LazyConfig.save(cfg, tmp_path / "c.yaml")
        cfg = LazyConfig.load(tmp_path / "c.yaml")
    built = instantiate(cfg)
    assert built.plain == Plain(2)
    assert built.many == [Plain(3)]
    assert built.deep.x == Plain(4)
    assert type(built.deep.x) is Plain
    assert built.kind is Spec
    assert (built.spec.channels, list(built.spec.strides)) == (3, [4])
    assert reload or built.spec == spec
    assert instantiate(L(Plain)(channels=7)) == Plain(7)


def test_a_dataclass_of_tensors_survives():
    built = instantiate(L(Record)(v=OfTensor(torch.ones(2)))).v
    assert type(built) is OfTensor
    assert built.values.sum() == 2


def test_an_assigned_dataclass_target_is_called():
    cfg = L(Record)(channels=2)
    cfg._target_ = Plain
    assert instantiate(cfg) == Plain(2)


def test_interpolation_reads_parents_and_follows_later_changes():
    cfg = L(Record)(a=3, inner=L(Record)(b="${..a}", c="${a}"), text="${a}/x")
    cfg.a = 4
    built = instantiate(cfg)
    assert (built.inner.b, built.inner.c, built.text) == (4, 4, "4/x")
    cfg.inner.b = [5]
    assert instantiate(cfg).inner.b == [5]


def test_an_interpolated_node_is_built_anew():
    built = instantiate(DictConfig({"a": L(Record)(x=1), "b": "${a}"}, flags={"allow_objects": True}))
    assert built.b.x == 1
    assert built.a is not built.b


def test_what_a_class_builds_per_stage_is_built_once_per_stage():
    stack = instantiate(model().model.decoder)
    assert [layer.channels for layer in stack.layers] == [4, 4]  # the nodes still see what is above them
    assert stack.layers[0] is not stack.layers[1]
    assert isinstance(stack.factory, StageFactory)
    head = instantiate(L(Stack)(layer=L(Layer)(channels=1), head=L(Layer)(channels=2))).head
    assert head.channels == 2  # what is not declared is built as ever


def test_parts_of_a_stage_receive_its_number_at_any_depth():
    deep = L(Numbered)(part=L(dict)(inner={"x": [L(Numbered)()]}), parts=[L(Numbered)()])
    cfg = L(Stack)(layer=deep, num_layers=3, head=L(Numbered)())
    for stack in (instantiate(cfg), Stack(deep, 3, Numbered())):
        for stage, layer in enumerate(stack.layers):
            inner = layer.part["inner"].x[0]
            assert (layer.stage, layer.parts[0].stage, inner.stage) == (stage, stage, stage)
        assert stack.head.stage == -1


def test_a_stage_within_a_stage_counts_for_itself():
    stack = instantiate(L(Stack)(layer=L(Stack)(layer=L(Numbered)(), num_layers=3), num_layers=2))
    assert [[layer.stage for layer in inner.layers] for inner in stack.layers] == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (
            torch.nn.Linear(1, 1),
            "Stack: layer is a built torch.nn.Linear, which all stages would share; give a config node, L(Linear)",
        ),
        (3, "Stack: layer=3: expected a config node, L(...)(...), which each stage builds"),
        ({"channels": 3}, "Stack: layer="),
        (None, "Stack: layer=None: expected a config node"),
    ],
)
def test_what_all_stages_would_share_is_refused(layer, words):
    cfg = DictConfig({"a": {"_target_": Stack, "layer": layer}}, flags={"allow_objects": True})
    for build in (lambda: Stack(layer), lambda: instantiate(cfg)):
        with pytest.raises(TypeError) as caught:
            build()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, InputError)
    assert str(caught.value).startswith("a: ")


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (L(Stack)(layer=L(Numbered)(stage=0)), r"a\.layer\.stage: cannot be set; delete it"),
        (L(Stack)(layer=L(dict)(x=L(Numbered)(stage=0))), r"a\.layer\.x\.stage: cannot be set; delete it"),
        (L(Stack)(layer=L(Layer)(channels=1), _recursive_=False), r"a\._recursive_: no longer a key; delete it"),
    ],
)
def test_flags_of_older_configs_are_refused(cfg, words):
    with pytest.raises(BuildError, match=f"^{words}"):
        instantiate(DictConfig({"a": cfg}, flags={"allow_objects": True}))


def test_a_config_is_not_changed_by_building():
    cfg = model()
    before = OmegaConf.to_container(cfg)
    instantiate(cfg)
    assert OmegaConf.to_container(cfg) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dropout": -1}, "model.decoder.layer: {layer}: dropout must be >= 0, got -1"),
        (
            {"drop_out": 1},
            "model.decoder.layer.drop_out: {layer} has no argument 'drop_out'. It takes: channels, dropout. ",
        ),
        ({"drop_out": 1}, "Did you mean dropout?"),
        ({"dropout": "high"}, "model.decoder.layer: {layer}: '<' not supported"),
        ({"dropout": "???"}, "model.decoder.layer.dropout: a value is required here (???); give it as"),
        ({"dropout": "${nowhere}"}, "model.decoder.layer.dropout: Interpolation key 'nowhere' not found"),
    ],
)
def test_mistakes_in_arguments_name_path_and_argument(changes, words):
    for build in (lambda: instantiate(model(**changes)), lambda: instantiate(model(**changes).model)):
        with pytest.raises(BuildError) as caught:
            build()
        assert words.format(layer=f"{__name__}.Layer") in str(caught.value)
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, InputError)


def test_a_missing_argument_is_named():
    with pytest.raises(TypeError, match=r"^a: .*Layer lacks the argument 'channels'\. It takes: channels, dropout\.$"):
        instantiate(DictConfig({"a": L(Layer)()}, flags={"allow_objects": True}))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (
            "torch.nn.Linaer",
            "a: _target_ 'torch.nn.Linaer' cannot be imported: torch.nn has no 'Linaer'. Did you mean torch.nn.Linear?",
        ),
        ("torhc.nn.Linear", "there is no module 'torhc' (is it installed?)"),
        ("torch.nn.Linear.nothing.at.all", "torch.nn.Linear has no 'nothing'"),
        ("torch.nn", "must be a class or a function"),
        ("crossstage.errors", "must be a class or a function"),
        ("my class", "'my class' is not a dotted name"),
        (3, "a: _target_ must be a class or a function, got 3"),
    ],
)
def test_targets_that_cannot_be_used(target, words):
    with pytest.raises(ImportError) as caught:
        instantiate(DictConfig({"a": {"_target_": target}}, flags={"allow_objects": True}))
    assert isinstance(caught.value, TargetError)
    assert words in str(caught.value)


def test_a_target_whose_module_fails_to_import_says_why(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "needs_more.py").write_text("import no_such_module_at_all\n")
    (tmp_path / "breaks.py").write_text("1 / 0\n")
    with pytest.raises(TargetError, match="needs_more needs no_such_module_at_all"):
        instantiate({"_target_": "needs_more.X"})
    with pytest.raises(TargetError, match="breaks: ZeroDivisionError: division by zero"):
        instantiate({"_target_": "breaks.X"})


@pytest.mark.parametrize(("depth", "kind"), [(2, RuntimeError), (3, ValueError), (4, OSError)])
def test_other_exceptions_keep_their_type_and_carry_the_path(depth, kind):
    with pytest.raises(kind, match="from deep inside") as caught:
        instantiate(model(dropout=depth))
    assert not isinstance(caught.value, InputError)
    assert caught.value.config_path == "model.decoder.layer"
    notes = "".join(getattr(caught.value, "__notes__", caught.value.args))
    assert f"while building model.decoder.layer: {__name__}.Layer" in notes
    assert "dig" in [entry.name for entry in caught.traceback]


def test_a_wrong_call_inside_a_constructor_is_not_the_configs_fault():
    with pytest.raises(TypeError, match="unexpected keyword") as caught:
        instantiate(L(Careless)())
    assert not isinstance(caught.value, InputError)


def test_lazy_call_wants_something_to_call():
    with pytest.raises(TypeError, match="LazyCall needs"):
        L(3)


def test_nodes_put_into_a_node_are_copies():
    layer = L(Layer)(channels=1)
    first, second = L(Record)(layer=layer), L(Record)(layer=layer)
    first.layer.channels = 2
    assert (layer.channels, second.layer.channels) == (1, 1)


def test_modules_built_from_lists_train():
    cfg = L(torch.nn.ModuleList)(modules=[L(torch.nn.Linear)(in_features=2, out_features=3) for _ in range(2)])
    assert [layer.out_features for layer in instantiate(cfg)] == [3, 3]
    assert instantiate(L(fixed)()) == 0
