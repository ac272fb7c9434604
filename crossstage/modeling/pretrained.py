"""timm's pretrained weights, without a long wait where there is no internet.

If its server does not answer, huggingface_hub repeats each request five times, with pauses of up to eight seconds,
before it fails: nearly a minute for each backbone. Here one short request comes first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError

TIMEOUT = 5.0  # seconds without an answer


@contextmanager
def quick_if_offline(weights: Mapping) -> Iterator[str]:
    """Do not wait for a server that does not answer: inside, only files in huggingface_hub's caches are used then.

    Proxies and `HF_ENDPOINT` count, because the request is huggingface_hub's own. `HF_HUB_OFFLINE=1` sends none, and
    `HF_HUB_ETAG_TIMEOUT` is the number of seconds to wait, if it is set.

    Args:
        weights: timm's description of pretrained weights (`model.pretrained_cfg`).

    Yields:
        Why the server does not answer; empty if it does, and if the weights are not on such a server.
    """
    silent = _silence(weights.get("hf_hub_id") or "")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or bool(silent)
    try:
        yield silent
    finally:
        constants.HF_HUB_OFFLINE = before


def _silence(repository: str) -> str:
    if not repository:
        return ""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    address = hf_hub_url(repository.partition("@")[0], "model.safetensors")
    try:
        get_hf_file_metadata(address, timeout=float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or TIMEOUT))
    except HfHubHTTPError:
        return ""  # a server has answered; what it refuses is for timm to tell
    except Exception as error:  # which library sends the request, and so its errors, depends on the version of the hub
        return f"{constants.ENDPOINT} does not answer: {type(error).__name__}: {error}"
    return ""
