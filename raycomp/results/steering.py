# SPDX-License-Identifier: Apache-2.0
"""What a person asks of a running search: to stop or to pause. A file in the sweep's folder holds the request.

The file exists while a search listens. A request thus reaches it from another machine, and through object storage.
"""

import time
from contextlib import suppress
from typing import Literal, get_args

from raycomp.files import write_bytes
from raycomp.storage import AnyPath

Request = Literal["", "stop", "pause"]
"""stop: end after the running trials; pause: start no trial until the request is withdrawn; empty: go on."""
_FILE = "request"
_EVERY = 1.0  # seconds between looks at the file, which may be in object storage


class Steering:
    """The request to the search that writes to a folder."""

    def __init__(self, folder: AnyPath) -> None:
        self._path = folder / _FILE
        self._seen: Request = ""
        self._looked = float("-inf")

    def ask(self, request: Request) -> None:
        """Make a request in place of any earlier one; an empty one withdraws it. A search that begins makes it too."""
        write_bytes(self._path, request.encode())

    def end(self) -> None:
        """Listen no longer, as far as the storage can be reached: the next job ends what is left."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def listening(self) -> bool:
        """Return whether a search listens, or was killed while it did."""
        return self._path.is_file()

    def request(self) -> Request:
        """Return the request. It may be a second old, and older while the storage cannot be reached."""
        if time.monotonic() - self._looked >= _EVERY:
            self._looked = time.monotonic()
            with suppress(OSError):
                self._seen = self._read()
        return self._seen

    def _read(self) -> Request:
        try:
            text = self._path.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return next((known for known in get_args(Request) if known == text), "")
