"""A Hugging Face hub of one repository, on a local port: the parts that a download uses."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Serves `directory` as a repository. It counts what it sends and can misbehave."""

    daemon_threads = True

    def __init__(self, directory: Path, repository: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.directory = directory
        self.repository = repository
        self.stall_after: int | None = None
        """Bytes of a file's body after which nothing more comes."""
        self.lie = False
        """State a wrong SHA-256 for the weights."""
        self.silent = False
        self.ranges: list[str] = []
        self.sent_bytes = 0
        self.closing = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(directory: Path, repository: str = "org/tiny") -> Iterator[Hub]:
    hub = Hub(directory, repository)
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.server.silent:
            self.server.closing.wait(30)
        elif self.path.startswith(f"/api/models/{self.server.repository}"):
            self._listing()
        else:
            self._file(with_body=True)

    def do_HEAD(self) -> None:
        self._file(with_body=False)

    def _listing(self) -> None:
        siblings = []
        for path in sorted(self.server.directory.iterdir()):
            entry: dict[str, object] = {"rfilename": path.name, "size": path.stat().st_size}
            if path.suffix == ".safetensors":
                sha256 = "0" * 64 if self.server.lie else _sha256(path)
                entry["lfs"] = {"sha256": sha256, "size": path.stat().st_size, "pointerSize": 1}
            siblings.append(entry)
        body = json.dumps(
            {"id": self.server.repository, "sha": COMMIT, "siblings": siblings}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, with_body: bool) -> None:
        path = self.server.directory / self.path.split("?")[0].rsplit("/", 1)[-1]
        if not path.is_file():
            self.send_error(404)
            return
        body, start = path.read_bytes(), 0
        if with_body and (requested := self.headers.get("Range")):
            self.server.ranges.append(requested)
            start = int(requested.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{_sha256(path)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if with_body:
            self._send(body[start:])

    def _send(self, body: bytes) -> None:
        limit = self.server.stall_after
        self.wfile.write(body[:limit])
        self.server.sent_bytes += len(body[:limit])
        if limit is not None and len(body) > limit:
            self.server.closing.wait(30)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
