"""The folder of a config: its modules are importable, and a stored config finds them from anywhere."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import crossstage.configs
from crossstage.config import LazyCall as L
from crossstage.config import LazyConfig, get_config
from crossstage.config.folders import KEY, needed_folders
from crossstage.errors import InputError

RULE = "class MyRule:\n    def __init__(self, width, depth=2):\n        self.area = width * depth\n"
LAZY = "from crossstage.config import LazyCall as L\n"
CONFIGS = {
    "import": f"{LAZY}from my_rule import MyRule\nmodel = L(MyRule)(width=3)\n",
    "name": f"{LAZY}model = L('my_rule.MyRule')(width=3)\n",
    "package": f"{LAZY}from mine.rules import MyRule\nmodel = L(MyRule)(width=3)\n",
    "base": "from .deep.config import model\n",
}
LOAD = "from crossstage.config import LazyConfig, instantiate; cfg = LazyConfig.load(sys.argv[1])"
SHOW = f"{LOAD}; print(instantiate(cfg.model).area)"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A user's folder, with one config for each way of naming a class of his own."""
    folder = tmp_path / "home"
    for sub in ("mine", "deep"):
        (folder / sub).mkdir(parents=True)
    (folder / "my_rule.py").write_text(RULE)
    (folder / "mine/rules.py").write_text(RULE)
    (folder / "deep/deep_rule.py").write_text(RULE)
    (folder / "deep/config.py").write_text(CONFIGS["import"].replace("my_rule", "deep_rule"))
    for name, text in CONFIGS.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def python(code: str, *arguments: object, cwd: Path) -> str:
    """What a Python without PYTHONPATH prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    root = str(Path(crossstage.__file__).parents[1])
    code = f"import sys; sys.path[0] = {root!r}; {code}"
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, cwd=cwd, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("name", CONFIGS)
def test_a_class_in_the_configs_folder_loads_and_the_stored_config_too(home, tmp_path, name):
    save = f"{SHOW}; LazyConfig.save(cfg, 'out/config.yaml'); print([path for path in sys.path if 'home' in path])"
    area, added = python(save, home / f"{name}.py", cwd=tmp_path).splitlines()
    assert area == "6"
    folders = [home] if name != "base" else [home, home / "deep"]
    assert added == str([str(folder) for folder in folders])
    stored = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    assert stored["_import_from_"] == [str(folders[-1])]
    assert stored["model"]["depth"] == 2
    assert python(SHOW, tmp_path / "out/config.yaml", cwd=tmp_path / "out") == "6\n"
    again = f"{SHOW}; LazyConfig.save(cfg, 'out/again.yaml')"
    python(again, tmp_path / "out/config.yaml", cwd=tmp_path)
    assert (tmp_path / "out/again.yaml").read_text() == (tmp_path / "out/config.yaml").read_text()


def test_a_stored_config_moves_with_its_modules(home, tmp_path):
    python(f"{SHOW}; LazyConfig.save(cfg, 'out/config.yaml')", home / "import.py", cwd=tmp_path)
    (home / "my_rule.py").rename(tmp_path / "out/my_rule.py")
    home.rename(tmp_path / "gone")
    assert python(SHOW, tmp_path / "out/config.yaml", cwd=tmp_path / "gone") == "6\n"


def test_a_folder_that_is_gone_is_named(tmp_path, caplog):
    (tmp_path / "c.yaml").write_text(f"a: 1\n{KEY}: [/no/such/folder]\n")
    with caplog.at_level(logging.WARNING):
        assert LazyConfig.load(tmp_path / "c.yaml") == {"a": 1}
    assert "c.yaml: needs modules of /no/such/folder, which does not exist; copy them" in caplog.text
    assert "/no/such/folder" not in sys.path


def test_folders_are_added_once_and_after_all_others(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "c.py").write_text("a = {'x': 1}\n")
    before = list(sys.path)
    for _ in range(2):
        LazyConfig.load(tmp_path / "c.py")
    assert sys.path == [*before, str(tmp_path)]


def test_the_librarys_own_configs_add_no_folder(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    get_config("common/models/deformable.py")
    LazyConfig.load(Path(crossstage.__file__).parents[1] / "projects/dino/configs/dino_toy.py")
    assert sys.path == before


def test_installed_modules_need_no_folder():
    content = {"a": {"_target_": "torch.nn.Linear", "b": [{"_object_": "crossstage.config.instantiate"}]}}
    assert needed_folders({**content, "c": {"_target_": "builtins.dict"}, "d": {"_target_": "no_such.thing"}}) == []
    assert needed_folders([{"_target_": {"_target_": f"{__name__}.python"}}]) == [str(Path(__file__).parent)]


@pytest.mark.parametrize("kind", ["class MyRule:\n    pass\n", "def MyRule():\n    pass\n"])
def test_a_target_that_a_config_defines_is_refused_where_the_node_is_made(tmp_path, kind):
    (tmp_path / "own.py").write_text(kind)
    use = "from crossstage.config import LazyCall as L\nmodel = L(MyRule)()\n"
    for text in (f"{kind}{use}", f"from .own import MyRule\n{use}"):
        (tmp_path / "c.py").write_text(text)
        with pytest.raises(InputError) as caught:
            LazyConfig.load(tmp_path / "c.py")
        assert "c.py:" in str(caught.value)
        assert "LazyCall(MyRule): defined in a config file" in str(caught.value)
        assert "from my_module import MyRule" in str(caught.value)
    assert L(python)() is not None
