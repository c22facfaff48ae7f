"""One writer a sweep: a lock on its folder, that of the file system, or a lease in object storage.

A lease is an object that its holder renews. Nobody compares clocks: a lease that does not change while
it is watched is left over from a job that was killed.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import TextIO

from raycomp.errors import UserError
from raycomp.storage import AnyPath, ObjectPath

_NAME = ".lock"
RENEWED = 5.0
"""Seconds between renewals of a lease."""
_WATCHED = 3 * RENEWED
_LOOKED_AT = 0.3  # seconds that somebody who asks for the holder may be in the way


class Lock:
    """Held from `take` until it is dropped, or its process ends."""

    # Not filelock, which locks what only this machine sees: it has no lock in object storage. On a file system it takes
    # the same flock, but only exclusively, so that two `raycomp status` at once would each see the other as a writer.
    # And its releases before 4 (tried: 3.16, 3.20) empty the file of a lock that is held, which says who holds it.

    def __init__(self, folder: AnyPath) -> None:
        self._folder = folder
        self._file: TextIO | None = None
        self._lease: _Lease | None = None

    def take(self) -> None:
        """Keep other jobs out of the folder.

        Raises:
            UserError: where another job holds it.
        """
        if self._file is None and isinstance(self._folder, Path):
            self._file = self._flocked(self._folder / _NAME)
        elif self._lease is None and isinstance(self._folder, ObjectPath):
            self._lease = self._leased(self._folder / _NAME)

    def holder(self) -> str:
        """Which process holds the lock, empty where none does; of a lease, which held it last without ending it."""
        if isinstance(self._folder, ObjectPath):
            held = _holder(self._folder / _NAME)
            return "" if not held or _dead(held) else str(held["who"])
        path = self._folder / _NAME
        if not path.exists():
            return ""
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read() or "another job"
        return ""

    def lost(self) -> bool:
        """Whether another job has taken over, from one that could not renew its lease for long."""
        return self._lease is not None and self._lease.lost

    def drop(self) -> None:
        """Let others in."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lease is not None:
            self._lease.end()
            self._lease = None

    def _flocked(self, path: Path) -> TextIO:
        held, until = path.open("a+"), time.monotonic() + _LOOKED_AT
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    held.seek(0)
                    raise self._refusal(held.read()) from None
                time.sleep(0.05)
        held.truncate(0)
        held.write(_who())
        held.flush()
        return held

    def _leased(self, path: ObjectPath) -> "_Lease":
        before = _holder(path)
        if before and not _dead(before):
            until = time.monotonic() + _WATCHED
            while time.monotonic() < until:
                time.sleep(RENEWED / 5)
                if (now := _holder(path)) and now != before:
                    raise self._refusal(str(now["who"]))
        lease = _Lease(path)
        lease.write()
        time.sleep(1)  # two that take over at once: the later write stays
        if lease.taken():
            raise self._refusal(str(_holder(path).get("who")))
        lease.start()
        return lease

    def _refusal(self, who: str) -> UserError:
        return UserError(
            f"results folder {self._folder}: {who or 'another job'} is writing to it; wait, or choose another --name"
        )


class _Lease:
    """An object that a thread renews."""

    def __init__(self, path: ObjectPath) -> None:
        self._path, self._id, self._count = path, uuid.uuid4().hex, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self.lost = False

    def write(self) -> None:
        held = {"who": _who(), "host": socket.gethostname(), "process": os.getpid(), "id": self._id}
        self._count += 1
        self._path.write_bytes(json.dumps(held | {"count": self._count}).encode())

    def taken(self) -> bool:
        """Whether the lease is another's."""
        holder = _holder(self._path)
        return bool(holder) and holder["id"] != self._id

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        if not self.lost:
            self._path.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED):
            try:
                if self.taken():
                    self.lost = True
                    return
                self.write()
            except OSError:  # the storage is out of reach: what this job writes next will tell
                continue


def _who() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _holder(path: ObjectPath) -> dict[str, object]:
    try:
        found: dict[str, object] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _dead(holder: dict[str, object]) -> bool:
    """Whether it was a process of this machine that has ended."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(str(holder["process"])), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return int(str(holder["process"])) == os.getpid()  # a number that was given again
