"""Downloads weights from the web, each address once, into the cache of torch.hub."""

from __future__ import annotations

import hashlib
import http.client
import logging
import shutil
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch

from crossstage.errors import InputError
from crossstage.files import replacing

logger = logging.getLogger("crossstage.checkpoints")

TIMEOUT = 60.0  # seconds without a byte


def downloaded(address: str) -> Path:
    """Download an http(s) address unless it is in the cache. An incomplete file is never kept.

    If several processes call this at the same time, each downloads the file.

    Args:
        address: the http(s) address.

    Returns:
        The local file.

    Raises:
        InputError: if the download fails or is shorter than announced.
    """
    # The file keeps its suffix, which decides how it is read. The folder separates equal names of two addresses.
    folder = Path(torch.hub.get_dir(), "checkpoints", hashlib.sha256(address.encode()).hexdigest()[:16])
    path = folder / (PurePosixPath(urlsplit(address).path).name or "weights")
    if path.is_file():
        return path
    logger.info(f"downloading {address} to {path}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            _fetch(address, temporary)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise InputError(
            f"{address}: cannot be downloaded ({type(error).__name__}: {error}); fetch it by hand"
        ) from error
    return path


def _fetch(address: str, path: Path) -> None:
    request = Request(address, headers={"User-Agent": "crossstage"})  # some servers refuse urllib's own
    with urlopen(request, timeout=TIMEOUT) as response, path.open("wb") as file:
        shutil.copyfileobj(response, file)
        announced = response.headers.get("Content-Length")
    if announced is not None and path.stat().st_size != int(announced):
        raise OSError(f"{path.stat().st_size} of {announced} bytes arrived")
