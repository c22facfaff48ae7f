# SPDX-License-Identifier: Apache-2.0
"""What a job does at its end with a copy that hangs."""

import threading
import time

import pytest

from raycomp.results import replica
from raycomp.results.replica import Replica
from tests.helpers.rows import row


class Hangs(Replica):
    """Takes no answer for as long as the test lasts, where it is told to."""

    def __init__(self, connects: bool, writes: bool) -> None:
        self.warnings: list[str] = []
        super().__init__("copy", "somewhere", self.warnings.append)
        self.steps, self.over = {"connect": connects, "write": writes}, threading.Event()

    def connect(self):
        self._wait("connect")

    def write(self, item):
        self._wait("write")

    def _wait(self, step: str) -> None:
        if not self.steps[step]:
            self.over.wait(60)


@pytest.mark.parametrize(("connects", "writes"), [(False, True), (True, False)])
def test_the_end_of_a_job_does_not_wait_for_a_copy_that_hangs(monkeypatch, connects, writes):
    monkeypatch.setattr(replica, "_STALLED_AFTER", 0.2)
    copy, began = Hangs(connects, writes), time.monotonic()
    copy.log(row())
    assert not copy.close()
    assert not copy.bounded(lambda: pytest.fail("it had been given up"))
    assert time.monotonic() - began < 10
    [warning] = copy.warnings
    assert warning.startswith("copy at somewhere failed (no answer in ")
    copy.over.set()


def test_a_step_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(replica, "_STALLED_AFTER", 0.2)
    copy = Hangs(True, True)

    def hang() -> None:
        copy.over.wait(60)

    copy.log(row())
    assert copy.close()
    assert copy.bounded(lambda: None)
    assert not copy.bounded(hang)
    assert len(copy.warnings) == 1
    copy.over.set()
