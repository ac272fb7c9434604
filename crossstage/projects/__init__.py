"""The detectors of the papers: configs, and the modeling that is one paper's own.

In a wheel the projects lie in this package. In a checkout they are the folder `projects` at its top level.
"""

from pathlib import Path

_checkout = Path(__file__).resolve().parents[2]
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout / "projects"))
