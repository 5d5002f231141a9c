"""`nas dashboard`: the runs of a store and their reports in a browser of this machine, while searches run.

It answers nobody but this machine (127.0.0.1), changes no run, and knows two kinds of pages: `/`, the runs, and
`/run/NAME`. No path of a request is one of the disk. A request must name this machine as its host: pages of another
site whose name is made to lead here (DNS rebinding) are refused.
"""

import argparse
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote

from nas.errors import RunError, UsageError, one_line
from nas.plain import shown
from nas.report import output
from nas.report.page import policy, run_page, runs_page, script
from nas.store.sql import Store

ADDRESS = "127.0.0.1"
RUN = "/run/"
SECONDS = 30.0  # that a request may take to say what it asks
LONGEST = 2000  # of a path
MOST_KEPT = 32  # pages


def serve(store: Store, options: argparse.Namespace) -> str:
    """Serves until Ctrl-C, whose KeyboardInterrupt goes on to the caller."""
    if not 0 <= options.port <= 65535:
        raise UsageError(f"port={options.port} must lie in 0..65535")
    with server(store.url, options.port) as serving:
        output.tell(f"All runs of {store.url} are at http://{ADDRESS}:{serving.server_port}/ until Ctrl-C.")
        serving.serve_forever(poll_interval=0.2)
    return ""


def server(url: str, port: int) -> ThreadingHTTPServer:
    """Bound to its port. Raises UsageError where that is taken."""
    handler: Any = type("Handler", (Handler,), {"pages": Pages(url)})
    try:
        found = Server((ADDRESS, port), handler)
        handler.port = found.server_port
        return found
    except OSError as error:
        raise UsageError(f"port={port} cannot be served: {error.strerror}; name another, or 0 for any") from error


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Pages:
    """The pages of a store, made anew where a run has news. One is made at a time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[Any, str]] = {}  # of a run what its page was made of, and the page

    def runs(self) -> str:
        with self._lock, Store(self.url) as store:
            hollow = store.hollow_runs()
            rows = [row for row in store.runs() if row["name"] not in hollow]
            return runs_page(rows, store.url, output.left_out(len(hollow)).partition(";")[0].strip())

    def run(self, name: str) -> str | None:
        """None where there is no run of exactly this name."""
        with self._lock, Store(self.url) as store:
            run = next((run for run in store.all_runs() if run.name == name), None)
            if run is None:
                return None
            # A run that was deleted may have had this name and this id.
            news = (run.id, run.identity, run.started, store.run(name).status, store.tally(run.id))
            if name not in self._kept or self._kept[name][0] != news:
                from nas.commands.looks import looked_at  # it imports jax

                while len(self._kept) >= MOST_KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[name] = news, run_page(*looked_at(store, name), live=True, home="/")
            return self._kept[name][1]


class Handler(BaseHTTPRequestHandler):
    """Answers GET alone."""

    pages: ClassVar[Any]
    port: ClassVar[int]
    timeout = SECONDS
    server_version, sys_version = "nas", ""

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self._hosts():
            return self._refuse(HTTPStatus.FORBIDDEN, "This page is for this machine, by its own address.")
        path = self.path.partition("?")[0]
        if len(self.path) > LONGEST:
            return self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG, "The address is too long.")
        if path == "/":
            return self._answer(self.pages.runs)
        if path.startswith(RUN):
            return self._answer(lambda: self.pages.run(unquote(path.removeprefix(RUN), errors="replace")))
        return self._refuse(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _hosts(self) -> tuple[str, ...]:
        names, port = (ADDRESS, "localhost"), self.port
        return tuple(f"{name}:{port}" for name in names) + (names if port == 80 else ())

    def _answer(self, make: Callable[[], str | None]) -> None:
        try:
            page = make()
        except (UsageError, RunError) as error:
            return self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        except Exception as error:  # of whatever a store may hold: a browser is answered
            said = f"This page cannot be made: {type(error).__name__}: {shown(one_line(error))}"
            return self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, said)
        if page is None:
            return self._refuse(HTTPStatus.NOT_FOUND, "There is no such run.")
        return self._send(HTTPStatus.OK, "text/html", page)

    def _refuse(self, status: HTTPStatus, said: str) -> None:
        self._send(status, "text/plain", f"{said}\n")

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", f"{policy(script())}; frame-ancestors 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: one line said where the pages are."""
