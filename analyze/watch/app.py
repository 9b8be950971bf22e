"""The page of `tracer watch`: read-only, for this machine alone."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyze.watch.survey import Survey, Watched, report_of
from tracer.errors import said
from tracer.store.files import as_utf8

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PAGE = Path(__file__).parent / "page"
HOSTS = ["127.0.0.1", "localhost"]  # a page elsewhere cannot make a browser send one of these as its own name
FILES = {"watch.js": "text/javascript", "watch.css": "text/css"}
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
POLICY += "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# A report is somebody's file: its script runs, but as a stranger to this page.
SANDBOX = "sandbox allow-scripts allow-downloads allow-popups"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
REMEMBERED = 16  # answers, by what was asked and of which version


def make_app(survey: Survey) -> Starlette:
    """The application: the page, what it polls, and the reports of the runs."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import Response
    from starlette.routing import Route

    made = Made()

    def page(request: Request) -> Response:
        headers = HEADERS | {"Content-Security-Policy": POLICY}
        return Response((PAGE / "watch.html").read_bytes(), media_type="text/html", headers=headers)

    def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FILES:
            return missing("there is no such file")
        return Response((PAGE / name).read_bytes(), media_type=FILES[name], headers=HEADERS)

    def state(request: Request) -> Response:
        return answer(request, _body(survey.state()))

    def curves(request: Request) -> Response:
        by = request.query_params.get("by", "")
        x = "epoch" if request.query_params.get("x") == "epoch" else "step"
        key = "curves", survey.version, by, x
        return answer(request, made.once(key, lambda: _body(survey.curves(by=by, x=x))))

    def report(request: Request) -> Response:
        run = survey.runs.get(request.path_params["key"])
        if run is None:
            return missing("there is no such run here any more")
        try:
            saved = report_of(run, survey.place)
            if saved is not None:
                content = saved.read_bytes()
            elif run.results is None:
                return missing("nothing is computed of this run yet")
            else:
                content = made.once(("report", survey.version, run.key), lambda: _report(run))
        except Exception as error:  # of a run that was deleted or damaged since it was looked at, anything
            return missing(f"there is no report of this run: {said(error)}")
        return Response(
            content, media_type="text/html", headers=HEADERS | {"Content-Security-Policy": SANDBOX}
        )

    def answer(request: Request, text: bytes) -> Response:
        tag = f'"{hashlib.sha256(text).hexdigest()[:32]}"'
        headers = HEADERS | {"ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(text, media_type="application/json", headers=headers)

    def missing(text: str) -> Response:
        return Response(as_utf8(f"{text}\n"), 404, headers=HEADERS, media_type="text/plain")

    served: dict[str, Callable[[Request], Response]] = {
        "/": page,
        "/runs/{key}": page,
        "/runs/{key}/report.html": report,
        "/page/{name}": file,
        "/state.json": state,
        "/curves.json": curves,
    }
    routes = [Route(path, function) for path, function in served.items()]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)])


class Made:
    """Answers that were made, by what was asked and of which version: each is made once, and the latest are kept."""

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def once(self, key: tuple[Any, ...], make: Callable[[], bytes]) -> bytes:
        """The answer of this key."""
        with self._lock:  # figures are drawn, and tables made, one at a time
            if key not in self._answers:
                self._answers[key] = make()
            self._answers.move_to_end(key)
            while len(self._answers) > REMEMBERED:
                self._answers.popitem(last=False)
            return self._answers[key]


def serve(survey: Survey, port: int, ready: Callable[[str], object]) -> None:
    """Serve the page on 127.0.0.1 until interrupted; `ready` is called with its address. Port 0: any that is free.

    Errors: OSError where the port is taken.
    """
    import uvicorn

    # The server ends its work at a signal, and then lets the signal have its effect: not before ours is done.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("127.0.0.1", port))
            listening.listen()
            settings = uvicorn.Config(
                make_app(survey), log_level="error", access_log=False, server_header=False
            )
            survey.start()
            ready(f"http://127.0.0.1:{listening.getsockname()[1]}/")
            uvicorn.Server(settings).run(sockets=[listening])
    except KeyboardInterrupt:
        pass  # that is how one ends it
    finally:
        survey.close()


def _report(run: Watched) -> bytes:
    """The report of what is computed of a run so far."""
    from analyze.report import render
    from tracer.archive import open

    assert run.results is not None
    with open(run.path) as archive:
        return as_utf8(render(run.results, archive))


def _body(content: Any) -> bytes:
    # In ASCII, for a name that is no UTF-8 has no other form.
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
