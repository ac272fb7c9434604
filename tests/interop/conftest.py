"""Where detrex and detectron2 are, and a process that has them in front of this checkout."""

import importlib.util
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from detrex_stand_ins import StandIn

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
NEEDED = ("fairscale", "timm", "cv2")  # packages of detrex and detectron2 without a stand-in here


def checkouts(*packages: str) -> list[str]:
    """The roots of foreign packages, in order; skips the test that asks where one of them is absent."""
    roots = []
    for package in NEEDED if "detrex" in packages else ():
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package}, which detrex needs, is not installed; see CONTRIBUTING.md")
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            pytest.skip(f"{package} is not on PYTHONPATH; see 'In your detrex' of csla/README.md")
        roots.append(str(Path(spec.origin).parents[1]))
    return roots


@pytest.fixture
def stand_in_detrex(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detrex whose SetCriterion is `StandIn`."""
    criterion = types.ModuleType("detrex.modeling.criterion")
    criterion.SetCriterion = StandIn
    for name in ("detrex", "detrex.modeling"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "detrex.modeling.criterion", criterion)


@pytest.fixture(scope="session")
def foreign() -> Callable[..., subprocess.CompletedProcess]:
    """`foreign(packages, *command)` runs Python with these packages' checkouts first on its path."""

    def run(packages: tuple[str, ...], *command: Any, **environment: str) -> subprocess.CompletedProcess:
        path = os.pathsep.join([*checkouts(*packages), str(HERE), str(ROOT)])
        settings = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
        arguments = [sys.executable, "-W", "ignore", *map(str, command)]
        done = subprocess.run(arguments, env=settings, cwd=HERE, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    return run


@pytest.fixture(scope="session")
def detrex_root() -> Path:
    """The root of detrex's checkout."""
    return Path(checkouts("detrex", "detectron2")[0])


@pytest.fixture(scope="session")
def scenario(foreign: Callable[..., subprocess.CompletedProcess]) -> Callable[[str], dict[str, Any]]:
    """What `detrex_scenarios.py` found for a detector; each is run once."""
    found: dict[str, dict[str, Any]] = {}

    def of(detector: str) -> dict[str, Any]:
        if detector not in found:
            done = foreign(("detrex", "detectron2"), HERE / "detrex_scenarios.py", detector)
            found[detector] = json.loads(done.stdout.splitlines()[-1])
        return found[detector]

    return of


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated dataset in COCO's format; its tests need detectron2."""
    checkouts("detectron2")
    output = tmp_path_factory.mktemp("data") / "toy"
    command = [sys.executable, "-m", "crossstage.data.toy", "--output", str(output), "--workers", "1"]
    subprocess.run([*command, "--train", "8", "--val", "6"], cwd=ROOT, check=True, capture_output=True)
    return output
