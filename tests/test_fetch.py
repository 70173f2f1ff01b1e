"""Downloads from a server that means no good: every trick ends in one sentence, nothing kept, in bounded time."""

import hashlib
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request

import pytest

from genzoo.fetch import SECURE, Redirects, fetch, reachable

GOOD = bytes(range(256)) * 300  # more than one receipt
SHA256 = hashlib.sha256(GOOD).hexdigest()
http_too = partial(fetch, schemes=("http", "https"))


class Server(BaseHTTPRequestHandler):
    """Each path is another trick."""

    def do_GET(self) -> None:
        getattr(self, self.path.strip("/"), self.nowhere)()

    def log_message(self, *_: object) -> None:
        pass

    def head(self, code: int, **fields: object) -> None:
        self.send_response(code)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def nowhere(self) -> None:
        self.head(404)

    def good(self) -> None:
        self.head(200, Content_Length=len(GOOD))
        self.wfile.write(GOOD)

    def other(self) -> None:
        self.head(200)
        self.wfile.write(GOOD[:-1] + b"!")

    def short(self) -> None:
        self.head(200, Content_Length=len(GOOD))
        self.wfile.write(GOOD[:-10])

    def announces(self) -> None:
        self.head(200, Content_Length=10**15)
        self.wfile.write(GOOD)

    def endless(self) -> None:
        self.head(200)
        self.server.sent = 0
        try:
            while True:
                self.server.sent += self.wfile.write(bytes(2**16))
        except OSError:
            pass

    def trickle(self) -> None:
        self.head(200)
        try:
            while True:
                self.wfile.write(b"!")
                time.sleep(0.02)
        except OSError:
            pass

    def silent(self) -> None:
        time.sleep(2)

    def garbage(self) -> None:
        self.wfile.write(b"not HTTP\r\n\r\n")

    def same(self) -> None:
        self.head(302, Location="/good")

    def file(self) -> None:
        self.head(302, Location="file:///etc/hostname")

    def ftp(self) -> None:
        self.head(302, Location="ftp://127.0.0.1:9/x")

    def circle(self) -> None:
        self.head(302, Location="/circle")


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield http
        http.shutdown()


@pytest.fixture
def url(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize("path", ["good", "same"])
def test_the_known_file_arrives_whole(path: str, url: str, tmp_path: Path) -> None:
    target = http_too(f"{url}/{path}", tmp_path / "new/file", SHA256, len(GOOD))
    assert target.read_bytes() == GOOD
    assert [file.name for file in target.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "path, kind, words",
    [
        ("other", ValueError, "known sha256"),
        ("short", ConnectionError, r"cannot be fetched \(.*76,790 of 76,800"),
        ("announces", ValueError, "more than the 1.0 MB"),
        ("endless", ValueError, "more than the 1.0 MB"),
        ("trickle", ConnectionError, "not complete after 0 s"),
        ("silent", ConnectionError, "timed out"),
        ("garbage", ConnectionError, "cannot be fetched"),
        ("nowhere", ConnectionError, "404"),
        ("file", ConnectionError, "file:///etc/hostname"),
        ("ftp", ValueError, "ftp://127.0.0.1:9/x is not fetched: only http and https"),
        ("circle", ConnectionError, "cannot be fetched"),
    ],
)
def test_every_trick_is_refused_in_one_sentence(path: str, kind: type, words: str, url: str, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(kind, match=words):
        http_too(f"{url}/{path}", target, SHA256, 2**20, silence=0.3, patience=0.3)
    assert target.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_an_endless_answer_is_cut_early(server: ThreadingHTTPServer, url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"more than the 1\.0 MB"):
        http_too(f"{url}/endless", tmp_path / "file", SHA256, 2**20)
    time.sleep(0.1)
    assert server.sent < 2**25  # what the system's buffers took beyond the limit


@pytest.mark.parametrize("scheme", ["http", "file", "ftp", "data", "HTTP", ""])
def test_only_https_is_asked(scheme: str, url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not fetched: only https is safe"):
        fetch(f"{scheme}{url.removeprefix('http')}/good", tmp_path / "file", SHA256, 2**20)
    assert not (tmp_path / "file").exists()


def test_a_redirect_away_from_https_is_refused(url: str) -> None:
    """As a server with https could send one: the handler itself is asked."""
    request = Request("https://127.0.0.1/file")
    for to in (f"{url}/good", "file:///etc/hostname", "//etc"):
        with pytest.raises(ValueError, match="only https is safe"):
            Redirects(SECURE).redirect_request(request, None, 302, "", {}, to)
    assert (
        Redirects(SECURE).redirect_request(request, None, 302, "", {}, "https://other/f").full_url == "https://other/f"
    )


def test_a_server_that_refuses_is_reachable_all_the_same(url: str) -> None:
    assert reachable(url)  # which answers 501 to HEAD
    assert not reachable("http://127.0.0.1:9")
