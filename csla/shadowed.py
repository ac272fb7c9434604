"""Replaces methods of a foreign object for the duration of one call."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def shadowed(module: object, **attributes: Any) -> Iterator[None]:
    """Inside, these attributes hide those of the module; nothing is registered, and afterwards all is restored."""
    own = vars(module)
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del own[name]
        own.update(before)
