"""LazyConfig.load, load_rel and get_config: fresh files, imports by path, one-line errors."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import DictConfig

import crossstage.configs
from crossstage.config import LazyConfig, find_config, get_config, instantiate
from crossstage.config.source import files_run_once
from crossstage.errors import InputError

ROOT = Path(crossstage.__file__).parents[1]


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def tree(tmp_path):
    """A small tree of configs as a project has it."""
    return write(
        tmp_path,
        {
            "projects/toy/configs/models/base.py": (
                "from collections import Counter\n"
                "from crossstage.config import LazyCall as L\n"
                "model = L(Counter)(a=1, b='${.a}')\n"
            ),
            "projects/toy/configs/base_12ep.py": (
                "from crossstage.config import LazyConfig\n"
                "from .models.base import model\n"
                "train = LazyConfig.load_rel('../settings/train.yaml', 'train')\n"
                "_private = {'x': 1}\n"
                "epochs = 12\n"
            ),
            "projects/toy/settings/train.yaml": "train:\n  max_iter: 10\n  lr: 1e-4\n",
            "projects/toy/configs/deep/long_24ep.py": (
                "from ..base_12ep import epochs, model, train\n"
                "train.max_iter = 2 * train.max_iter\n"
                "model.a = 5\n"
                "again = epochs\n"
            ),
            "mine.py": "from projects.toy.configs.base_12ep import model, train\nmodel.a = 7\ntrain.max_iter = 1\n",
        },
    )


def load_error(folder: Path, text: str, expected: type = InputError) -> str:
    """Load a config of this text and return the error's message, which must be one line that names the file."""
    file = folder / "faulty.py"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        LazyConfig.load(file)
    assert isinstance(caught.value, expected)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_only_public_mappings_are_roots_but_keys_reach_every_name(tree):
    file = tree / "projects/toy/configs/base_12ep.py"
    cfg = LazyConfig.load(file)
    assert isinstance(cfg, DictConfig)
    assert sorted(cfg) == ["model", "train"]
    assert LazyConfig.load(file, "epochs") == 12
    train, epochs = LazyConfig.load(str(file), ("train", "epochs"))
    assert (train.max_iter, train.lr, epochs) == (10, 1e-4, 12)


def test_unknown_key_is_a_key_error_that_names_those_there_are(tree):
    with pytest.raises(KeyError) as caught:
        LazyConfig.load(tree / "projects/toy/configs/base_12ep.py", "modle")
    assert "defines no 'modle'" in str(caught.value)
    assert "Did you mean model?" in str(caught.value)


def test_relative_imports_climb_and_changes_stay_in_the_file_that_makes_them(tree):
    configs = tree / "projects/toy/configs"
    long = LazyConfig.load(configs / "deep/long_24ep.py")
    assert (long.train.max_iter, long.model.a) == (20, 5)
    base = LazyConfig.load(configs / "base_12ep.py")
    assert (base.train.max_iter, base.model.a) == (10, 1)
    base.train.max_iter = 3
    assert LazyConfig.load(configs / "base_12ep.py").train.max_iter == 10


def test_two_imports_of_one_file_are_independent_copies(tmp_path):
    write(
        tmp_path,
        {
            "a.py": "values = {'x': 1}\n",
            "b.py": (
                "from .a import values as first\nfirst.x = 2\nfrom .a import values as second\nfrom .a import *\n"
            ),
        },
    )
    cfg = LazyConfig.load(tmp_path / "b.py")
    assert (cfg.first.x, cfg.second.x, cfg["values"].x) == (2, 1, 1)


def test_a_file_that_several_files_import_runs_once_a_load(tmp_path, capsys):
    files = {
        "a.py": "print('run')\nvalues = {'x': 1}\n",
        "b.py": "from .a import values\nvalues.x = 2\n",
        "c.py": "from .b import values as changed\nfrom .a import values\n",
    }
    file = write(tmp_path, files) / "c.py"
    for _ in range(2):
        cfg = LazyConfig.load(file)
        assert (cfg.changed.x, cfg["values"].x) == (2, 1)
    assert capsys.readouterr().out == "run\nrun\n"


def test_files_run_once_runs_no_file_twice_and_shares_no_node(tmp_path, capsys):
    files = {
        "base.py": "print('base runs')\nmodel = {'a': {'b': 1}}\n",
        "first.py": "from .base import model\nmodel.a.b = 2\n",
        "second.py": "from .base import model\n",
    }
    write(tmp_path, files)
    with files_run_once():
        loaded = [LazyConfig.load(tmp_path / name).model.a for name in ("first.py", "second.py", "first.py")]
    assert [part.b for part in loaded] == [2, 1, 2] and loaded[0] is not loaded[2]
    assert capsys.readouterr().out == "base runs\n"
    LazyConfig.load(tmp_path / "second.py")
    assert capsys.readouterr().out == "base runs\n", "outside, a changed file is read"


def test_no_module_is_left_behind_and_import_is_not_patched(tree):
    before, importer = set(sys.modules), __import__
    LazyConfig.load(tree / "projects/toy/configs/deep/long_24ep.py")
    assert set(sys.modules) == before
    assert __import__ is importer


def test_absolute_import_of_a_config_is_fresh_inside_a_config(tree, monkeypatch):
    monkeypatch.syspath_prepend(str(tree))
    for _ in range(2):
        cfg = LazyConfig.load(tree / "mine.py")
        assert (cfg.model.a, cfg.train.max_iter) == (7, 1)
    assert not any(name.startswith("projects.toy.configs.") for name in sys.modules)


def test_configs_are_ordinary_modules_too(tree):
    code = (
        "from projects.toy.configs.deep.long_24ep import model, train\n"
        "from crossstage.config import LazyConfig, instantiate\n"
        "cfg = LazyConfig.load('projects/toy/configs/deep/long_24ep.py')\n"
        "assert cfg.model == model and cfg.train == train, (cfg, model, train)\n"
        "print(instantiate(model), train.max_iter)\n"
    )
    environment = {"PYTHONPATH": f"{tree}:{ROOT}", "PATH": ""}
    run = subprocess.run([sys.executable, "-c", code], cwd=tree, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[0] == "Counter({'a': 5, 'b': 5}) 20"


def test_yaml_is_read_safely_with_numbers_as_people_write_them(tmp_path):
    write(tmp_path, {"a.yaml": "lr: 1e-4\nn: 3\ntext: 'x'\nnode:\n  _target_: collections.Counter\n  a: ${n}\n"})
    cfg = LazyConfig.load(tmp_path / "a.yaml")
    assert (cfg.lr, cfg.text) == (1e-4, "x")
    assert instantiate(cfg).node == {"a": 3}
    write(
        tmp_path, {"evil.yml": "x: !!python/object/apply:os.mkdir [made]\n", "list.yaml": "- 1\n", "bad.yaml": "a: [\n"}
    )
    for name, words in {
        "evil.yml": "evil.yml:1: is not valid YAML",
        "list.yaml": "mapping",
        "bad.yaml": "bad.yaml:2",
    }.items():
        with pytest.raises(InputError, match=words) as caught:
            LazyConfig.load(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_missing_file_names_its_neighbour(tree):
    with pytest.raises(
        FileNotFoundError, match=r"base_12e\.py: there is no such config file. Did you mean base_12ep.py\?"
    ) as e:
        LazyConfig.load(tree / "projects/toy/configs/base_12e.py")
    assert isinstance(e.value, InputError)


def test_other_suffixes_and_pickles_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"a config is a \.py, \.yaml or \.yml file$"):
        LazyConfig.load(tmp_path / "a.json")
    with pytest.raises(InputError, match="executes code"):
        LazyConfig.load(tmp_path / "a.yaml.pkl")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = {}\nb = (1\n", "faulty.py:2: SyntaxError: "),
        ("a = {}\n\nb = a['x']\n", "faulty.py:3: KeyError: 'x'"),
        ("from crossstage.config import LazyCall as L\nL(3)\n", "faulty.py:2: TypeError: LazyCall needs"),
        ("def f():\n    raise ValueError('two\\nlines')\n\nf()\n", "faulty.py:2: ValueError: two lines"),
        ("from crossstage.config import get_config\nx = get_config('no.py')\n", "faulty.py:2: get_config('no.py'): "),
    ],
)
def test_errors_in_a_config_name_file_and_line(tmp_path, text, words):
    assert words in load_error(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "\nfrom .nowhere import x\n",
            "faulty.py:2: from .nowhere import x: relative import of a file that does not exist: ",
        ),
        ("from . import folder\n", "is a directory; write from .FILE import NAME"),
        ("from .folder import inner\n", "a relative import needs a config file, but "),
        ("from .folder.inner import valeus\n", "inner.py does not define valeus. Did you mean values?"),
        ("from .faulty import x\n", "remove one of the imports"),
        ("from .folder.circle import x\n", "remove one of the imports"),
        (
            "import no_such_module_anywhere\n",
            "faulty.py:1: ModuleNotFoundError: No module named 'no_such_module_anywhere'",
        ),
    ],
)
def test_failing_imports_are_import_errors(tmp_path, text, words):
    write(tmp_path, {"folder/inner.py": "values = {}\n", "folder/circle.py": "from ..faulty import x\n"})
    assert words in load_error(tmp_path, text, ImportError)


def test_an_error_in_an_imported_file_names_that_file(tmp_path):
    write(tmp_path, {"inner.py": "\n\n1 / 0\n"})
    assert "inner.py:3: ZeroDivisionError" in load_error(tmp_path, "from .inner import x\n")


def test_load_rel_needs_a_file():
    with pytest.raises(InputError, match=r"but <string> is not a file; use LazyConfig\.load"):
        exec("LazyConfig.load_rel('a.py')", {"LazyConfig": LazyConfig})


def test_get_config_reads_the_shared_configs_afresh_each_time(tmp_path, monkeypatch):
    write(tmp_path, {"common/train.py": "train = {'seed': 1}\n", "common/data/coco.py": ""})
    monkeypatch.setattr(crossstage.configs, "__path__", [str(tmp_path)])
    train = get_config("common/train.py").train
    train.seed = 2
    assert get_config("common/train.py").train.seed == 1
    with pytest.raises(
        FileNotFoundError, match=r"There are: common/data/coco\.py, common/train\.py\. Did you mean common/train\.py"
    ):
        get_config("common/trian.py")


def test_ten_files_load_in_a_moment(tmp_path):
    for i in range(10):
        write(tmp_path, {f"c{i}.py": f"from .c{i + 1} import values\nvalues.x += 1\n"})
    write(tmp_path, {"c10.py": "values = {'x': 0}\n"})
    start = time.perf_counter()
    assert LazyConfig.load(tmp_path / "c0.py")["values"].x == 10
    assert time.perf_counter() - start < 0.5


def test_a_path_of_our_projects_is_found_from_any_folder(tmp_path, monkeypatch):
    """A config of detectron2 names one of ours; it runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    path = "projects/dino/configs/dino_toy.py"
    assert find_config(path) == find_config("dino_toy")
    for wrong in ("projects/dn_detr/configs/dino_toy.py", "configs/dino_toy.py"):
        with pytest.raises(InputError, match="no such config file"):
            find_config(wrong)
