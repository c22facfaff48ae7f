"""A time limit for a trial, so that one that hangs does not hold its worker for ever."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def time_limit(seconds: float | None, grace: float = 30.0) -> Iterator[None]:
    """Raise TimeoutError in the body after `seconds`; None is no limit. In the main thread, where Ray runs actors.

    A body that no signal reaches, in a native call that does not return, ends with its process after `grace` more
    seconds; Ray starts another one.
    """
    if seconds is None:
        yield
        return

    def ring(*_: object) -> None:
        raise TimeoutError(f"not done within {seconds:g} seconds (search.trial_seconds)")

    last = threading.Timer(seconds + grace, os._exit, (1,))
    last.daemon = True
    before = signal.signal(signal.SIGALRM, ring)
    last.start()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        last.cancel()
