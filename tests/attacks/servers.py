"""A web server on the loopback interface that serves a folder, honestly or not."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec

Answer = Callable[["Server", bytes], None]


class Server(BaseHTTPRequestHandler):
    """Serves files; `trick` answers for those whose path it is asked about."""

    folder = Path()
    ranges = True
    trick: Answer | None = None
    tricked = re.compile("$^")
    stop = threading.Event()
    asked: list[str] = []  # noqa: RUF012

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.asked.append(self.path)
        file = self.folder / self.path.lstrip("/")
        trick = type(self).trick
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if trick is not None and self.tricked.search(self.path):
                trick(self, file.read_bytes() if file.is_file() else b"")
            elif not file.is_file():
                self.send_error(404)
            else:
                self.honest(file.read_bytes(), body)

    def honest(self, data: bytes, body: bool = True) -> None:
        """The file, or the part of it that is asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if self.ranges else None
        part = data[int(asked[1]) : int(asked[2]) + 1] if asked else data
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(part)))
        if asked:
            self.send_header("Content-Range", f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(data)}")
        self.end_headers()
        if body and self.command == "GET":
            self.wfile.write(part)

    def say(self, status: int, body: bytes = b"", **headers: object) -> None:
        """An answer of one's own making."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The URL of a folder while it is served."""
    Server.folder, Server.ranges, Server.trick, Server.asked = folder, True, None, []
    Server.stop.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        Server.stop.set()
        filesystem = fsspec.filesystem("http")
        if filesystem._session is not None:
            fsspec.asyn.sync(filesystem.loop, filesystem._session.close)
        filesystem.clear_instance_cache()
        server.shutdown()
        server.server_close()
        thread.join()
