"""Config nodes that all projects share.

In a wheel they lie in this package. In a checkout they are the folder `configs` at its top level.
"""

from pathlib import Path

_checkout = Path(__file__).resolve().parents[2]
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout / "configs"))
