# SPDX-License-Identifier: Apache-2.0
"""A replica of the rows in another system, written by a thread of the driver. Its failures never stop the sweep.

Parquet is the record. A replica is filled from it, and may be down or deleted at any time.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from raycomp.errors import first_line, logger, without_password
from raycomp.results.row import Row

_RETRY_AFTER = 30.0  # seconds between a failure and the next attempt
_STALLED_AFTER = 90.0  # seconds without progress after which a job that ends gives the replica up


class Replica:
    """Writes rows in the background, in order. The first failure is reported; failed writes are retried."""

    advice = "The same command fills it in later"
    """What to do if it still fails at the end of the job."""

    def __init__(self, name: str, where: str, warn: Callable[[str], None]) -> None:
        """Create a replica that is not connected yet; messages show `where` without its password."""
        self._name, self._where, self._warn = name, where, warn
        self._queue: queue.SimpleQueue[Row | str | None] = queue.SimpleQueue()  # safe to use in signal handlers
        self._waiting: deque[Row | str] = deque()
        self._rows: dict[str, Row] = {}
        """Latest row of each identity, to fill a replica again that was put aside or deleted meanwhile."""
        self._connected, self._reported, self._given_up = False, False, False
        self._next_try, self._last_progress = 0.0, 0.0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def log(self, row: Row) -> None:
        """Queue a row. The first row starts the thread, because until then the cores are busy starting workers."""
        self._put(row)

    def close(self) -> bool:
        """Wait until all rows are written, another attempt fails, or writing stalls; return whether all are written."""
        self._put(None)
        return self._ended(self._thread) and not self._waiting and self._connected

    def bounded(self, step: Callable[[], None]) -> bool:
        """Run a guarded step after `close`, with a time limit; return whether it succeeded."""
        if self._given_up:
            return False
        results: list[bool] = []
        thread = threading.Thread(target=lambda: results.append(self.guarded(step)), name=self._name, daemon=True)
        thread.start()
        return self._ended(thread) and results == [True]

    def connect(self) -> None:
        """Connect, and look up what the replica already holds. Called again after a failure."""
        raise NotImplementedError

    def write(self, item: Row | str) -> None:
        """Write one row or other queued item; leave what the replica already holds unchanged."""
        raise NotImplementedError

    def guarded(self, step: Callable[[], None]) -> bool:
        """Run a step; if it fails, report the first failure and return False."""
        try:
            if not self._connected:
                self.connect()
                self._connected, texts = True, [item for item in self._waiting if isinstance(item, str)]
                self._waiting = deque([*self._rows.values(), *texts])
            step()
        except Exception as error:  # a server or database must not stop the sweep
            logger.debug("writing to %s at %s", self._name, self._where, exc_info=True)
            self._connected, self._next_try = False, time.monotonic() + _RETRY_AFTER
            self._report(error)
            return False
        return True

    def _put(self, item: Row | str | None) -> None:
        self._queue.put(item)
        if not self._thread.ident:
            self._thread.start()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            self._waiting.append(item)
            if not isinstance(item, str):
                self._rows[item.identity] = item
            if time.monotonic() >= self._next_try:
                self.guarded(self._drain)
        self.guarded(self._drain)

    def _drain(self) -> None:
        while self._waiting:
            self.write(self._waiting[0])
            self._waiting.popleft()
            self._last_progress = time.monotonic()

    def _ended(self, thread: threading.Thread) -> bool:
        """Wait for a thread while it makes progress; one that hangs ends with the process."""
        self._last_progress = time.monotonic()
        while thread.is_alive() and not self._given_up:
            thread.join(min(1.0, _STALLED_AFTER))
            if thread.is_alive() and time.monotonic() - self._last_progress > _STALLED_AFTER:
                self._given_up, self._connected = True, False
                self._report(TimeoutError(f"no answer in {_STALLED_AFTER:.0f} s"))
        return not self._given_up

    def _report(self, error: Exception) -> None:
        if self._reported:
            return
        self._reported = True
        failed = f"{self._name} at {self._where} failed ({first_line(error)})"
        self._warn(without_password(f"{failed}; retrying, rows are safe. {self.advice}"))
