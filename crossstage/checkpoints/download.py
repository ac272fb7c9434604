"""Weights from the web: each address is fetched once, to the cache of torch.hub."""

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
    """The local copy of an http(s) address; a part of a file never takes its place.

    Several processes may call this at the same time: each then fetches the file.

    Raises:
        InputError: if the download fails or is shorter than announced.
    """
    # The name keeps its ending, by which files are read; the folder tells equal names of two addresses apart.
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
