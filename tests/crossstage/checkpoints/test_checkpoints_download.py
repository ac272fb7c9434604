"""Files from a web server of this machine: whole, once, and from the cache afterwards."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from crossstage.checkpoints.download import downloaded
from crossstage.checkpoints.load import local_path
from crossstage.errors import InputError


class Site(BaseHTTPRequestHandler):
    """Answers with the path that was asked for; /half announces more than it sends, /absent is not there."""

    def do_GET(self) -> None:
        """Answer."""
        content = self.path.encode()
        self.send_response(404 if self.path == "/absent" else 200)
        self.send_header("Content-Length", str(len(content) + (self.path == "/half")))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, ThreadingHTTPServer]]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", server
        server.shutdown()


def cached(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_an_address_is_fetched_once(site, tmp_path: Path):
    address, server = site
    path = local_path(f"{address}/a/weights.pth")
    assert path.read_text() == "/a/weights.pth" and path.name == "weights.pth" and cached(tmp_path) == [path]
    server.shutdown()
    assert local_path(f"{address}/a/weights.pth") == path


def test_two_addresses_with_one_file_name_are_two_files(site):
    address, _ = site
    paths = [downloaded(f"{address}/{name}/weights.pth?version={name}") for name in "ab"]
    assert [path.read_text() for path in paths] == [f"/{name}/weights.pth?version={name}" for name in "ab"]
    assert {path.name for path in paths} == {"weights.pth"}


@pytest.mark.parametrize(("name", "reason"), [("absent", "404"), ("half", "5 of 6 bytes arrived")])
def test_a_failed_download_is_named_and_leaves_nothing(name: str, reason: str, site, tmp_path: Path):
    address, _ = site
    with pytest.raises(
        InputError, match=rf"^{address}/{name}: cannot be downloaded \(.*{reason}.*\); fetch it by hand"
    ):
        local_path(f"{address}/{name}")
    assert cached(tmp_path) == []


def test_a_server_that_is_not_there_is_an_input_error(site):
    address, server = site
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match="cannot be downloaded"):
        downloaded(f"{address}/weights.pth")
