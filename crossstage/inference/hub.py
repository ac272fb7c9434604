"""Models in repositories of the Hugging Face hub: `push` uploads one, `pull` fetches one. No code is fetched or run."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossstage.errors import InputError
from crossstage.inference.publication import FILES, write_publication
from crossstage.inference.run_files import CONFIG, PUBLISHED
from crossstage.inference.safe_config import read_restricted

logger = logging.getLogger("crossstage.inference")

PREFIX = "hf://"


def push(
    source: str | Path,
    repo: str,
    *,
    weights: str | Path | None = None,
    license: str | None = None,
    private: bool = False,
) -> str:
    """Upload a model: weights as safetensors, a config that holds no code, a model card.

    The files replace those of the same names in an existing repository.

    Args:
        source: as for `crossstage.load`.
        repo: "user/name".
        weights: as for `crossstage.load`.
        license: the identifier of a licence ("apache-2.0"); None leaves the field to be filled in.
        private: whether a new repository is private.

    Returns:
        The address of the commit.

    Raises:
        InputError: as `write_publication` does; or if the upload fails.
    """
    import huggingface_hub  # timm brings it along; importing it takes a while

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_publication(source, folder, repo=repo, weights=weights, license=license)
        with _named_errors(repo, "uploaded; `hf auth login` signs in"):
            api = huggingface_hub.HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload by crossstage"))


def pull(repo: str, output: str | Path | None = None, *, revision: str | None = None) -> Path:
    """Fetch a model that `push` uploaded. Only its three files are fetched, and the config is checked before use.

    Args:
        repo: "user/name", also with "hf://" before it.
        output: a folder that does not exist yet, or is empty; None takes the cache of the hub.
        revision: a branch, a tag or a commit; None takes the newest state.

    Returns:
        The folder, which `crossstage.load` takes.

    Raises:
        InputError: if the repository cannot be fetched, is not of this kind, or its config is refused.
    """
    repo = repo.removeprefix(PREFIX)
    if output is None:
        return _checked(_fetched(repo, revision, None), repo)
    target = Path(output).expanduser()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"{target}: exists already; expected a new or an empty folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pull") as name:
            fetched = _checked(_fetched(repo, revision, Path(name)), repo)
            target.mkdir(exist_ok=True)
            for file in FILES:
                if (fetched / file).is_file():
                    (fetched / file).replace(target / file)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}); choose another folder") from error
    return target


def _fetched(repo: str, revision: str | None, folder: Path | None) -> Path:
    """The folder with our files of a repository, in `folder` or in the cache of the hub."""
    import huggingface_hub

    logger.info("fetching %s of %s", ", ".join(FILES), repo)
    with _named_errors(repo, "fetched"):
        return Path(
            huggingface_hub.snapshot_download(repo, revision=revision, local_dir=folder, allow_patterns=list(FILES))
        )


def _checked(folder: Path, repo: str) -> Path:
    """The folder, if it has a config of the restricted form and weights. Raises InputError otherwise."""
    if lacking := [name for name in (CONFIG, PUBLISHED) if not (folder / name).is_file()]:
        raise InputError(
            f"{repo}: refused, it has no {' and no '.join(lacking)}; expected a repository that crossstage push wrote. "
            "Python files and pickles (.py, .pth, .bin, .pkl) are never fetched, because they can run code"
        )
    read_restricted(folder / CONFIG)
    return folder


@contextmanager
def _named_errors(repo: str, done: str) -> Iterator[None]:
    """Turns any error inside into an InputError: the network, the hub and its protocol raise a dozen kinds."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"{repo}: cannot be {done} ({type(error).__name__}: {reason})") from error
