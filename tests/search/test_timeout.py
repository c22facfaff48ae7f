# SPDX-License-Identifier: Apache-2.0
"""The time limit of a trial."""

import signal
import subprocess
import sys
import time

import pytest

from raycomp.search.timeout import time_limit


def test_what_takes_too_long_is_interrupted():
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimeoutError, match=r"not done within 0\.1 seconds \(search\.trial_seconds\)"), time_limit(0.1):
        time.sleep(60)
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_is_done_in_time_is_not():
    for seconds in (None, 60.0):
        with time_limit(seconds):
            pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_no_signal_reaches_ends_with_its_process():
    body = "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM}); time.sleep(60)"
    code = f"import signal, time\nfrom raycomp.search.timeout import time_limit\nwith time_limit(0.1, 0.1): {body}"
    done = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)
    assert done.returncode == 1
