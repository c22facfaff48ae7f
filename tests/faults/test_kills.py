# SPDX-License-Identifier: Apache-2.0
"""Kill the driver, a worker: the same command goes on, and the trials are those of an undisturbed sweep."""

import os
import random
import signal
import time

import pytest

from raycomp.results.store import Store
from tests.helpers.sweeps import (
    at_least,
    end_session,
    finish,
    logged,
    outcomes,
    rows_there,
    start,
    trial_workers,
    wait_until,
)

pytestmark = pytest.mark.faults
KILLS = int(os.environ.get("RAYCOMP_DRIVER_KILLS", "2"))  # `make test-faults` wants more


def test_a_driver_that_is_killed_again_and_again_loses_and_doubles_nothing(place, undisturbed):
    expected, options = undisturbed, list[str]()
    if KILLS > 2:
        options = ["--trials", str(9 + 2 * KILLS)]
        finish(start(place, "in-one-go", *options), place, "in-one-go")
        expected = outcomes(place, "in-one-go")
    moments, seconds, landed, with_rows = random.Random(), [], [], 0
    for kill in range(KILLS):
        slow = {"": 3.0}  # so that there is always something left to kill
        process, begun = start(place, "killed", *options, faults=slow), time.monotonic()
        if kill % 2:  # the other half dies at any moment, start-up included
            wait = moments.uniform(0.5, 25.0)
        else:
            before = rows_there(place, "killed")
            wait_until(at_least(place, "killed", before + 1), process, "another row", place / "killed.log")
            wait = moments.uniform(0.0, 1.5)
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        end_session(process)
        seconds.append(time.monotonic() - begun)
        landed.append(rows_there(place, "killed"))
        with_rows += landed[-1] > 0
        Store(place / "results" / "killed").rows()  # whole, every one of them
    assert with_rows, f"killed after {seconds} s with {landed} rows"
    finish(start(place, "killed", *options), place, "killed")
    assert outcomes(place, "killed") == expected
    assert logged(place, "killed") == sorted("-".join(key) for key in expected)


def test_a_worker_that_is_killed_is_replaced(place, undisturbed):
    process = start(place, "worker", faults={"": 0.4})
    killed = []
    for rows in (2, 6):
        wait_until(at_least(place, "worker", rows), process, "rows", place / "worker.log")
        worker = wait_until(lambda: trial_workers(process), process, "a worker", place / "worker.log")[0]
        worker.kill()
        killed.append(worker.pid)
    finish(process, place, "worker")
    assert len(set(killed)) == 2
    assert outcomes(place, "worker") == undisturbed
    assert logged(place, "worker") == sorted("-".join(key) for key in undisturbed)


def test_of_two_sweeps_in_one_folder_one_is_refused(place, undisturbed):
    first = start(place, "both", faults={"": 1.0})
    wait_until(lambda: rows_there(place, "both"), first, "a row", place / "both.log")
    second = start(place, "both")
    assert second.wait(120) == 2
    output = finish(first, place, "both")
    assert "is writing to it; wait, or choose another --name" in output
    assert outcomes(place, "both") == undisturbed
