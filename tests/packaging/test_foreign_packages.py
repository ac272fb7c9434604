"""Other libraries on the path: a `projects` of theirs changes nothing, and what we do not need is not imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Loads the config files of a pattern and builds three models, without memory.
LOAD = """
import sys
from pathlib import Path
import torch
import projects, configs
assert "theirs" in projects.__file__ and "theirs" in configs.__file__
from crossstage.config import LazyConfig, find_config, instantiate
for file in sorted(Path(sys.argv[1]).glob(sys.argv[2])):
    assert LazyConfig.load(file).model, file
with torch.device("meta"):
    for name in ("dn_detr_toy_csla", "stage_interactor_toy", "dino_toy_csla_dca"):
        model = instantiate(LazyConfig.load(find_config(name)).model)
        assert "theirs" not in str(sys.modules[type(model.queries).__module__].__file__)
print("loaded")
"""

# Refuses all imports but the standard library, torch with what it imports, omegaconf with what it imports, and ours.
BLOCK = """
import sys
import torch  # before the rest is refused: torch uses numpy where it finds it

ALLOWED = {"torch", "torchgen", "functorch", "typing_extensions", "omegaconf", "antlr4", "yaml", "_yaml"}
OURS = {"csla", "dca", "crossstage"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in ALLOWED | OURS and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {name!r} (refused)", name=name)

for name in [name for name in sys.modules if name.partition(".")[0] == "numpy"]:
    del sys.modules[name]
sys.meta_path.insert(0, Refuse())
"""


def run(code: str, *arguments: str, path: list[Path]) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    return subprocess.run(command, cwd=path[0], env=environment, capture_output=True, text=True)


DN_DETR = "projects/dn_detr/configs/**/*.py"  # detrex has a project of this name


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_configs_load_next_to_a_foreign_projects_package(first: str, tmp_path: Path):
    """detrex has top-level packages `projects` and `configs`, with projects of the same names as ours.

    That no file of ours imports a top-level `projects` is checked by tests/policy/test_policy_imports.py.
    """
    theirs = tmp_path / "theirs"
    for name in ("", "dn_detr", "dn_detr/modeling", "dn_detr/configs", "dino", "dino/configs"):
        (theirs / "projects" / name).mkdir(parents=True, exist_ok=True)
        (theirs / "projects" / name / "__init__.py").write_text("import detectron2\n" if name else "")
    (theirs / "configs/common").mkdir(parents=True)
    (theirs / "configs/__init__.py").write_text("")
    path = [ROOT, theirs] if first == "ours" else [theirs, ROOT]
    done = run(LOAD, str(ROOT), DN_DETR, path=[tmp_path, *path])
    assert done.returncode == 0 and done.stdout == "loaded\n", done.stderr


@pytest.mark.parametrize("package", ["csla", "dca"])
def test_the_adapters_need_torch_and_omegaconf_alone(package: str, tmp_path: Path):
    """Users of detrex install with --no-deps."""
    code = f"{BLOCK}\nfrom {package}.detrex import with_{package}"
    done = run(code, path=[tmp_path, ROOT])
    assert done.returncode == 0, done.stderr
    refused = run(f"{BLOCK}\nimport hydra", path=[tmp_path, ROOT])
    assert "No module named 'hydra' (refused)" in refused.stderr
