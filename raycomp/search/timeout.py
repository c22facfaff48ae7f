# SPDX-License-Identifier: Apache-2.0
"""A time limit for trials, so that a trial that hangs does not block its worker forever."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def time_limit(seconds: float | None, grace: float = 30.0) -> Iterator[None]:
    """Raise TimeoutError in the body after `seconds`; None sets no limit. Main thread only, where Ray runs actors.

    If the signal does not reach the body, as in a native call that never returns, the process exits after `grace` more
    seconds and Ray starts another one.
    """
    if seconds is None:
        yield
        return

    def expire(*_: object) -> None:
        raise TimeoutError(f"not done within {seconds:g} seconds (search.trial_seconds)")

    killer = threading.Timer(seconds + grace, os._exit, (1,))
    killer.daemon = True
    previous = signal.signal(signal.SIGALRM, expire)
    killer.start()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        killer.cancel()
