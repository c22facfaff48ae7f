# SPDX-License-Identifier: Apache-2.0
"""A lock that lets one job write to a sweep's folder: a file lock, or a lease in object storage.

The holder renews its lease, an object. Clocks are never compared: a lease that stays unchanged while another job
watches it was left by a job that was killed.
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
_WATCHED = 3 * RENEWED  # seconds without a change after which a lease is taken over
_INSPECTED = 0.3  # seconds for which `holder` in another process may hold a shared lock


class Lock:
    """A lock held from `take` until `drop`, or until its process ends."""

    # Why not filelock: it cannot lock in object storage. On a file system it takes the same flock, but only
    # exclusively, so two concurrent `raycomp status` would each see the other as a writer. Releases before 4 (tested:
    # 3.16, 3.20) also truncate the file of a held lock, which names the holder.

    name = _NAME
    """Name of its file in the folder."""

    def __init__(self, folder: AnyPath) -> None:
        self._folder = folder
        self._held: TextIO | _Lease | None = None

    def take(self) -> None:
        """Keep other jobs out of the folder; raise a UserError if another job holds the lock."""
        if self._held is None:
            path = self._folder / _NAME
            self._held = self._flocked(path) if isinstance(path, Path) else self._leased(path)

    def holder(self) -> str:
        """Return the process that holds the lock, empty if none does.

        For a lease, return the last holder that did not end it, unless that process is known to be dead.
        """
        path = self._folder / _NAME
        if isinstance(path, ObjectPath):
            holder = _holder(path)
            return "" if not holder or _dead(holder) else str(holder["who"])
        if not path.exists():
            return ""
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read() or "another job"
        return ""

    def lost(self) -> bool:
        """Return whether another job took the lease over because this one could not renew it in time."""
        return isinstance(self._held, _Lease) and self._held.lost

    def drop(self) -> None:
        """Release the lock."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def _flocked(self, path: Path) -> TextIO:
        file, until = path.open("a+"), time.monotonic() + _INSPECTED
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    file.seek(0)
                    raise self._refusal(file.read()) from None
                time.sleep(0.05)
        file.truncate(0)
        file.write(_who())
        file.flush()
        return file

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
        time.sleep(1)  # if two jobs take over at once, the later write wins
        if lease.taken():
            raise self._refusal(str(_holder(path).get("who")))
        lease.thread.start()
        return lease

    def _refusal(self, who: str) -> UserError:
        who = who or "another job"
        return UserError(f"results folder {self._folder}: {who} is writing to it; wait, or choose another --name")


class _Lease:
    """A lease that a thread renews."""

    def __init__(self, path: ObjectPath) -> None:
        self._path, self._id, self._count = path, uuid.uuid4().hex, 0
        self._ended = threading.Event()
        self.thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self.lost = False

    def write(self) -> None:
        self._count += 1
        holder = {"who": _who(), "host": socket.gethostname(), "process": os.getpid(), "id": self._id}
        self._path.write_bytes(json.dumps(holder | {"count": self._count}).encode())

    def taken(self) -> bool:
        """Return whether another job holds the lease."""
        holder = _holder(self._path)
        return bool(holder) and holder["id"] != self._id

    def close(self) -> None:
        self._ended.set()
        self.thread.join()
        if not self.lost:
            self._path.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED):
            try:
                if self.taken():
                    self.lost = True
                    return
                self.write()
            except OSError:  # unreachable storage: this job's next write reports it
                continue


def _who() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _holder(path: ObjectPath) -> dict[str, object]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError):
        return {}


def _dead(holder: dict[str, object]) -> bool:
    """Return whether the holder was a process of this machine that has ended."""
    if holder.get("host") != socket.gethostname():
        return False
    process = int(str(holder["process"]))
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return process == os.getpid()  # the system reused the process id
