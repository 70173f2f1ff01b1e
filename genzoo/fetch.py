"""Files from the network, each known beforehand: https, a size limit, a pinned sha256, there whole or not at all."""

import hashlib
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener, urlopen

from genzoo.files import megabytes, write_bytes

CHUNK = 2**16
SECURE = ("https",)


class Redirects(HTTPRedirectHandler):
    """Follows a server to another address of the schemes alone."""

    def __init__(self, schemes: tuple[str, ...]) -> None:
        self.schemes = schemes

    def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> Any:
        require(newurl, self.schemes)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(
    url: str,
    path: Path,
    sha256: str,
    most: int,
    schemes: tuple[str, ...] = SECURE,
    silence: float = 20.0,
    patience: float = 1800.0,
) -> Path:
    """Put the file of a URL at `path`, which stays untouched unless every byte is as expected.

    sha256: of the file, in hex. most: bytes it may have. silence, patience: seconds that the server may be silent, and
    that all of it may take. Raises ConnectionError when the file cannot be had, ValueError when it is not the one
    that was expected or is offered by another scheme, OSError when `path` cannot be written.
    """
    try:
        content = b"".join(received(url, most, schemes, silence, patience))
    except (OSError, HTTPException) as error:
        raise ConnectionError(f"{url} cannot be fetched ({error})") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{url} has not the known sha256: what it gave is not kept; fetch {path.name} from elsewhere")
    write_bytes(path, content)
    return path


def reachable(url: str, seconds: float = 3.0) -> bool:
    """Whether an HTTP server answers at url within `seconds`, through a proxy if one is set."""
    try:
        urlopen(Request(url, method="HEAD"), timeout=seconds).close()
    except HTTPError:
        return True
    except OSError:
        return False
    return True


def require(url: str, schemes: tuple[str, ...]) -> None:
    if url.split(":")[0].lower() not in schemes:
        raise ValueError(f"{url} is not fetched: only {' and '.join(schemes)} is safe from changes on the way")


def received(url: str, most: int, schemes: tuple[str, ...], silence: float, patience: float) -> Iterator[bytes]:
    """The bytes of a URL as they come, cut off when there are too many or they take too long."""
    require(url, schemes)
    deadline, size = time.monotonic() + patience, 0
    with build_opener(Redirects(schemes)).open(url, timeout=silence) as response:
        announced = response.length or 0  # None where the server does not say
        while chunk := response.read1(CHUNK):  # one receipt at a time: a server that trickles is noticed
            size += len(chunk)
            if max(size, announced) > most:
                raise ValueError(f"{url} gives more than the {megabytes(most)} MB of the known file: it is another")
            if time.monotonic() > deadline:
                raise TimeoutError(f"not complete after {patience:.0f} s")
            yield chunk
    if size < announced:
        raise ConnectionError(f"the connection broke after {size:,} of {announced:,} bytes")
