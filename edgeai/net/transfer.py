"""Fetch a file, going on where an earlier try stopped."""

import re
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Never

from edgeai.errors import CloudError, CloudProtocol, CloudTimeout, CloudUnavailable, DiskFull, DownloadFailed
from edgeai.net.calls import Retry, Timeouts, place
from edgeai.net.faults import mapped, status_error

if TYPE_CHECKING:
    import httpx

Progress = Callable[[int, int | None], None]

FILE_TIMEOUTS = Timeouts(connect_s=10, first_token_s=30, between_s=30, total_s=6 * 3600)
FILE_RETRY = Retry(attempts=4, backoff_s=0.5)


def download(
    url: str,
    target: Path,
    *,
    on_progress: Progress | None = None,
    size: int | None = None,
    timeouts: Timeouts = FILE_TIMEOUTS,
    retry: Retry = FILE_RETRY,
) -> None:
    """Fetch ``url`` into ``target``, appending to what is there already.

    ``on_progress(done, total)`` counts bytes, total None when the server does not say. ``size`` is the most
    that is accepted, in bytes. The file's content is not verified: a resumed file whose source has changed
    has a wrong hash. Tries that make no progress are counted by ``retry``; what arrived stays in ``target``.
    Raises DownloadFailed, and DiskFull when ``target`` cannot be written.
    """
    _Download(url, target, on_progress or (lambda done, total: None), size, timeouts, retry).run()


class _Download:
    def __init__(
        self,
        url: str,
        target: Path,
        on_progress: Progress,
        size: int | None,
        timeouts: Timeouts,
        retry: Retry,
    ) -> None:
        self.url, self.target, self.on_progress, self.size = url, target, on_progress, size
        self.timeouts, self.retry = timeouts, retry
        self.where = place(url)
        self.deadline = time.monotonic() + timeouts.total_s
        self.validator: str | None = None  # names the version of the file that this run began with
        self.total: int | None = None

    def run(self) -> None:
        failures = 0
        with _client(self.timeouts) as client:
            while True:
                before = self._have()
                try:
                    with mapped(self.where, self.timeouts):
                        return self._try(client)
                except CloudError as error:
                    failures = 1 if self._have() > before else failures + 1
                    self._wait(error, failures)

    def _wait(self, error: CloudError, failures: int) -> None:
        wait = self.retry.wait_s(failures, getattr(error, "retry_after_s", None)) if error.retryable else None
        if wait is None or time.monotonic() + wait > self.deadline:
            why = " ".join(filter(None, (error.what, error.why and f"({error.why})")))
            raise DownloadFailed(f"Could not fetch {self.where}", why=why, remedy=error.remedy) from error
        time.sleep(wait)

    def _have(self) -> int:
        return self.target.stat().st_size if self.target.exists() else 0

    def _try(self, client: "httpx.Client") -> None:
        have = self._have()
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if self.validator:
                headers["If-Range"] = self.validator
        with client.stream("GET", self.url, headers=headers) as response:
            if response.status_code == 416 and have:
                self._past_the_end(response, have)
            else:
                self._check(response)
                self._write(response, self._offset(response, have))

    def _past_the_end(self, response: "httpx.Response", have: int) -> None:
        if response.headers.get("content-range", "").strip() != f"bytes */{have}":
            self._restart("The file at the source is shorter than what was fetched before")
        self.on_progress(have, have)

    def _check(self, response: "httpx.Response") -> None:
        if response.url.scheme == "http" and self.url.startswith("https:"):
            raise CloudProtocol(f"{self.where} leads from https to an address without encryption")
        if response.status_code not in (200, 206):
            body = next(response.iter_raw(4096), b"")
            raise status_error(response.status_code, response.headers, body, self.where)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise CloudProtocol(f"{self.where} gives an encoded file although it was asked for a plain one")
        if response.headers.get("content-type", "").startswith("text/html"):
            raise CloudProtocol(
                f"{self.where} gave a web page and not a file",
                remedy="Sign in to the network, or check the URL",
            )

    def _offset(self, response: "httpx.Response", have: int) -> int:
        """Where in the file the answer's first byte belongs; remembers the file's size and version."""
        headers = response.headers
        if response.status_code == 206:
            span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("content-range", "").strip())
            if not span or int(span[1]) != have:
                self._restart("The source gave another part of the file than was asked for")
            total = None if span[2] == "*" else int(span[2])
            if self.total is not None and total != self.total:
                self._restart("The file at the source has changed its length")
            offset = have
        else:
            length = headers.get("content-length", "")
            total, offset = int(length) if length.isdecimal() else None, 0
        etag = headers.get("etag", "")
        self.validator = etag if etag.startswith('"') else None  # a weak one promises no equal bytes
        self.total = total
        return offset

    def _restart(self, why: str) -> Never:
        self.target.unlink(missing_ok=True)
        self.total = self.validator = None
        raise CloudUnavailable(f"{self.where}: {why}")

    def _write(self, response: "httpx.Response", done: int) -> None:
        self._limit(max(done, self.total or 0))
        with _opened(self.target, "ab" if done else "wb") as file:
            self.on_progress(done, self.total)
            for chunk in response.iter_raw():
                done += len(chunk)
                self._limit(done)
                _append(file, chunk, self.target)
                self.on_progress(done, self.total)
                if time.monotonic() > self.deadline:
                    limit = f"{self.timeouts.total_s:g} s (total_s)"
                    raise CloudTimeout(f"{self.where} was not fetched within {limit}")
        if self.total is not None and done < self.total:
            raise CloudUnavailable(f"{self.where} ended after {done} of {self.total} bytes")

    def _limit(self, done: int) -> None:
        if self.size is not None and done > self.size:
            self.target.unlink(missing_ok=True)  # not the file that was meant, so nothing to resume
            raise CloudProtocol(f"{self.where} is larger than the {self.size} bytes it should have")


def _opened(target: Path, mode: Literal["ab", "wb"]) -> FileIO:
    try:
        return target.open(mode, buffering=0)  # nothing is left to write, and to fail, at close
    except OSError as error:
        raise DiskFull(f"Cannot write {target}", why=error.strerror) from error


def _append(file: FileIO, chunk: bytes, target: Path) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise DiskFull(f"Cannot write {target}", why=error.strerror) from error


def _client(timeouts: Timeouts) -> "httpx.Client":
    import httpx

    from edgeai.net.clients import tls_context

    limits = httpx.Timeout(timeouts.between_s, connect=timeouts.connect_s, pool=timeouts.connect_s)
    return httpx.Client(verify=tls_context(), timeout=limits, follow_redirects=True, max_redirects=5)
