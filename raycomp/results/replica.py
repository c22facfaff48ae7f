"""A copy of the rows elsewhere, kept by a thread of the driver: whatever happens there, the sweep goes on.

Parquet is the record; a copy is filled from it and may be down, or be deleted, at any time.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from raycomp.errors import first_line, logger, without_password
from raycomp.results.row import Row

_PATIENCE = 30.0  # seconds until a copy that failed is tried again
_LONGEST = 90.0  # seconds that a job waits, at its end, for a copy that does not get on


class Replica:
    """Writes rows in the background, in order. What fails is told once, and tried again every now and then."""

    advice = "The same command fills it in later"
    """What to do where it fails to the end."""

    def __init__(self, name: str, where: str, warn: Callable[[str], None]) -> None:
        """`where` is shown without its password."""
        self._name, self._where, self._warn = name, where, warn
        self._queue: queue.SimpleQueue[Row | str | None] = queue.SimpleQueue()  # which signal handlers may use
        self._waiting: deque[Row | str] = deque()
        self._rows: dict[str, Row] = {}
        """The latest of each identity: a copy that is put aside or deleted meanwhile gets them again."""
        self._connected, self._told, self._given_up = False, False, False
        self._next_try, self._got_on = 0.0, 0.0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def log(self, row: Row) -> None:
        """Queue a row. The first one starts the thread: before, the cores are busy starting workers."""
        self._put(row)

    def close(self) -> bool:
        """Wait until all is written, has failed once more, or does not get on; returns whether all is written."""
        self._put(None)
        return self._ended(self._thread) and not self._waiting and self._connected

    def bounded(self, step: Callable[[], None]) -> bool:
        """Run a guarded step after `close`, with a time limit; returns whether it was done."""
        if self._given_up:
            return False
        taken: list[bool] = []
        thread = threading.Thread(target=lambda: taken.append(self.guarded(step)), name=self._name, daemon=True)
        thread.start()
        return self._ended(thread) and taken == [True]

    def connect(self) -> None:
        """Open the copy and find what it holds already. Called again after a failure."""
        raise NotImplementedError

    def write(self, item: Row | str) -> None:
        """Write one row, or what else was queued; what the copy holds already stays as it is."""
        raise NotImplementedError

    def guarded(self, step: Callable[[], None]) -> bool:
        """Take a step; where it fails, tell once and return False."""
        try:
            if not self._connected:
                self.connect()
                self._connected, texts = True, [item for item in self._waiting if isinstance(item, str)]
                self._waiting = deque([*self._rows.values(), *texts])
            step()
        except Exception as error:  # whatever a server or database does, the sweep goes on
            logger.debug("writing to %s at %s", self._name, self._where, exc_info=True)
            self._connected, self._next_try = False, time.monotonic() + _PATIENCE
            self._tell(error)
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
            self._got_on = time.monotonic()

    def _ended(self, thread: threading.Thread) -> bool:
        """Wait for a thread for as long as rows are written; one that hangs ends with the process."""
        self._got_on = time.monotonic()
        while thread.is_alive() and not self._given_up:
            thread.join(min(1.0, _LONGEST))
            if thread.is_alive() and time.monotonic() - self._got_on > _LONGEST:
                self._given_up, self._connected = True, False
                self._tell(TimeoutError(f"no answer in {_LONGEST:.0f} s"))
        return not self._given_up

    def _tell(self, error: Exception) -> None:
        if self._told:
            return
        self._told = True
        failed = f"{self._name} at {self._where} failed ({first_line(error)})"
        self._warn(without_password(f"{failed}; it is tried again, and rows are safe. {self.advice}"))
