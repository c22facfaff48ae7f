# SPDX-License-Identifier: Apache-2.0
"""The page of a sweep that runs, served to this machine alone; it follows the sweep by its rows."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

from plotly.offline import get_plotlyjs

from raycomp.errors import UserError, first_line, logger
from raycomp.report.figures import duration
from raycomp.report.page.sweep_page import sweep_page
from raycomp.report.status import Status, status_of
from raycomp.report.sweep_view import SweepView
from raycomp.results.store import Store

_LOOPBACK = "127.0.0.1"
_NAMES = {_LOOPBACK, "localhost"}


@dataclass(frozen=True)
class Snapshot:
    """A sweep at a moment."""

    version: str
    """Changes with the rows."""
    status: Status
    view: SweepView

    @property
    def line(self) -> str:
        """The state in a line."""
        status, volume = self.status, self.view.hypervolume()
        parts = [f"{status.state}: trial {status.trials}/{status.wanted}", f"{status.front} on the front"]
        parts += [f"hypervolume {volume:.4f}"] if volume is not None else []
        parts += [f"{status.full} on the full set"] if status.full else []
        parts += [f"{status.failed} failed"] if status.failed else []
        parts += [f"{status.workers} at once"] if status.workers > 1 and status.writer else []
        parts += [f"about {duration(status.left)} left"] if status.left is not None else []
        return " | ".join(parts)

    def data(self) -> dict[str, Any]:
        """Return what the page asks for every few seconds."""
        status = self.status
        done = 1.0 if status.state == "finished" else min(1.0, status.trials / status.wanted)
        return {"version": self.version, "line": self.line, "done": done, "ended": not status.writer}


class LiveSweep:
    """A sweep that is read again whenever its folder has changed."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, Lock()
        self._seen: tuple[object, ...] = ()
        self._snapshot: Snapshot | None = None
        self._page: tuple[str, str] | None = None
        """Version and HTML of the last page."""

    def snapshot(self) -> Snapshot:
        """Return the sweep as it is now; in object storage, a row that replaces another shows with the next new one.

        Raises:
            UserError: If its folder cannot be read.
        """
        with self._lock:
            files = self._store.files()
            changed = [path.stat().st_mtime_ns if isinstance(path, Path) else 0 for path in files]
            rows = tuple(str(path) for path in files), tuple(changed)
            if self._snapshot is None or rows != self._seen:
                view = SweepView.read(self._store)
                self._seen = rows
            else:
                view = self._snapshot.view
            version = f"{len(files)}-{max(changed, default=0)}"
            self._snapshot = Snapshot(version, status_of(self._store, view), view)
            return self._snapshot

    def page(self) -> str:
        """Return the page as HTML."""
        now = self.snapshot()
        if self._page is None or self._page[0] != now.version:
            self._page = now.version, sweep_page([now.view], live=now.version)
        return self._page[1]


def server(sweep: LiveSweep, port: int) -> ThreadingHTTPServer:
    """Return a server of the page on the loopback address; port 0 takes a free one.

    Raises:
        UserError: If the port is taken.
    """

    class Handler(_Handler):
        pages = {  # noqa: RUF012  of this server alone
            "/": ("text/html; charset=utf-8", sweep.page),
            "/progress.json": ("application/json", lambda: json.dumps(sweep.snapshot().data())),
            "/plotly.js": ("text/javascript; charset=utf-8", _plotly),
        }

    try:
        return ThreadingHTTPServer((_LOOPBACK, port), Handler)
    except OSError as error:
        raise UserError(f"--port {port}: {(error.strerror or str(error)).lower()}; 0 takes a free one") from None


class _Handler(BaseHTTPRequestHandler):
    """Answers GET for a few paths, to this machine's browser alone."""

    pages: dict[str, tuple[str, Callable[[], str]]]

    def do_GET(self) -> None:
        """Answer a request."""
        if self.headers.get("Host", "").partition(":")[0] not in _NAMES:  # a page elsewhere, by DNS rebinding
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        if (found := self.pages.get(self.path.partition("?")[0])) is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        kind, make = found
        try:
            content = make().encode()
        except Exception as error:  # such as a folder that was deleted; the page says that it gets no answer
            logger.debug("making %s", self.path, exc_info=True)
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=first_line(error))
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "max-age=86400" if make is _plotly else "no-store")
        self.end_headers()
        with suppress(ConnectionError):  # the browser has left
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  the base class calls it so
        """Log requests for debugging only."""
        logger.debug(format, *arguments)


@cache
def _plotly() -> str:
    return str(get_plotlyjs())
