# SPDX-License-Identifier: Apache-2.0
"""A disk that is full while a sweep writes: one line, nothing half-written, and the same command goes on."""

import subprocess
from pathlib import Path

import pytest

from tests.helpers.sweeps import finish, outcomes, rows_there, start, wait_until

pytestmark = pytest.mark.faults


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MB: a sweep with its page, and the copy of that in MLflow, take half of it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a file system of its own, which is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_full_disk_ends_the_sweep_with_one_line_and_it_goes_on_with_room(place, undisturbed, small_disk):
    options = ("--results", str(small_disk))
    process = start(place, "full", *options, faults={"": 0.5})
    wait_until(lambda: rows_there(small_disk, "full", "") >= 3, process, "rows", place / "full.log")
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        fill(ballast)
    output = finish(process, place, "full", code=2)
    assert "Traceback" not in output
    told = f"error: results folder {small_disk}/full: not writable (No space left on device); measured trials are kept"
    assert told in output
    assert 3 <= rows_there(small_disk, "full", "") < 10
    ballast.unlink()
    output = finish(start(place, "full", *options), place, "full")
    assert "trials done, resuming" in output
    assert outcomes(small_disk, "full", "") == undisturbed
    assert not list((small_disk / "full" / "trials").glob(".*"))
