"""The wheel alone, without the checkout: a config by its name trains, is evaluated and detects."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
FOLDERS = ("crossstage", "csla", "dca", "projects", "configs")
FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
TINY = ["train.device=cpu", "dataloader.root=data", "dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources: a `build` folder of the checkout could hold files of the past."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, sources / name)
    isolation = [] if importlib.util.find_spec("setuptools") is None else ["--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *isolation, "--wheel-dir", folder, "."]
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("crossstage-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel, and a pycocotools as if it were absent: it is no dependency of ours."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, wheel]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "pycocotools.py").write_text("raise ModuleNotFoundError('pycocotools is not installed')\n")
    return folder


def run(installed: Path, folder: Path, *arguments: str) -> str:
    """Run Python in `folder` with the installed wheel first on its path; returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


def test_the_wheel_holds_every_source_and_readme_once_and_nothing_else(wheel: Path):
    def packaged(path: Path) -> str:
        name = path.relative_to(ROOT).as_posix()
        return f"crossstage/{name}" if name.startswith(("projects/", "configs/")) else name

    suffixes = ("*.py", "*.md", "py.typed", "*.json")
    expected = {packaged(path) for name in FOLDERS for suffix in suffixes for path in (ROOT / name).rglob(suffix)}
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert sorted(names) == sorted(expected)


def test_the_metadata_are_complete(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
        scripts = archive.read(f"{folder}/entry_points.txt").decode()
    assert "crossstage = crossstage.cli:main" in scripts
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Keywords"] and metadata["Requires-Python"]
    assert any("3.10" in line for line in metadata.get_all("Classifier"))
    assert {"wandb", "dev"} <= set(metadata.get_all("Provides-Extra"))


def test_an_installed_wheel_trains_evaluates_and_predicts(installed: Path, tmp_path: Path):
    modules = "import crossstage, csla, dca; from crossstage.config import find_config; "
    files = "[crossstage.__file__, csla.__file__, dca.__file__, find_config('dino_toy')]"
    places = run(installed, tmp_path, "-c", f"{modules}print(*{files}, sep='\\n')")
    assert [line.startswith(f"{installed}/") for line in places.splitlines()] == [True] * 4
    listed = run(installed, tmp_path, "-m", "crossstage", "configs", "list")
    assert len(listed.splitlines()) == len(list(ROOT.glob("projects/*/configs/*.py")))
    run(installed, tmp_path, "-c", "from crossstage.config import get_config; get_config('common/train.py').train")
    counts = ("--train", "8", "--val", "3", "--size", "96", "--workers", "1")
    run(installed, tmp_path, "-m", "crossstage.data.toy", "--output", "data", *counts)
    train = ("train", "--config-file", "dino_toy_csla", *TINY, "train.max_iter=4", "train.output_dir=run")
    run(installed, tmp_path, "-m", "crossstage", *train, "train.eval_period=0", "dataloader.train.total_batch_size=2")
    assert (tmp_path / "run/results.json").is_file()
    weights = ("--config-file", "run/config.yaml", "--weights", "run/model_final.pth")
    run(installed, tmp_path, "-m", "crossstage", "evaluate", *weights, "train.output_dir=evaluated")
    results = [json.loads((tmp_path / folder / "results.json").read_text()) for folder in ("run", "evaluated")]
    assert results[0]["bbox"] == results[1]["bbox"]
    predict = ("predict", *weights, "--input", "data/val2017", "--output", "pictures", "--device", "cpu")
    assert "in 3 images" in run(installed, tmp_path, "-m", "crossstage", *predict)
    assert (tmp_path / "pictures/contact_sheet.png").is_file()
    (tmp_path / "empty").mkdir()
    shutil.copy(next((tmp_path / "data/val2017").iterdir()), tmp_path / "empty/photo.jpg")
    (readme,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "crossstage.load" in block]
    four_lines = readme.replace("output/quickstart", str(tmp_path / "run")).replace("0.3", "0.0")
    assert "tensor" in run(installed, tmp_path / "empty", "-c", four_lines)
