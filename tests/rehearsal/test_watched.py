# SPDX-License-Identifier: Apache-2.0
"""Commands that are watched: memory of all processes, time of a step, and the last line of an error."""

import os
import sys

import pytest

from raycomp.rehearsal.watched import watch

_CHILD = "import time; held = bytearray(b'x') * {size}; time.sleep(1.5)"
_PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_CHILD.format(size=300 * 2**20)!r}])"
_TRAINING = """
import sys
line = sys.argv[1]
for step in (1, 2, 3):
    print(f"{line}step {step}/3 loss 1.0, {step**2 / 4:.2f} s", flush=True)
"""


def test_memory_counts_processes_below(tmp_path):
    result = watch([sys.executable, "-c", _PARENT], os.environ, tmp_path / "log")
    assert result.code == 0
    assert result.memory > 300 * 2**20


@pytest.mark.parametrize("line", ["", "model 1/2, "])
def test_the_last_step_is_timed(tmp_path, line):
    result = watch([sys.executable, "-c", _TRAINING, line], os.environ, tmp_path / "log")
    assert result.steps == [0.25, 1.0, 2.25]
    assert result.step_seconds == 1.25
    assert result.output.splitlines()[-1] == f"{line}step 3/3 loss 1.0, 2.25 s"


def test_a_command_that_fails_leaves_its_last_line(tmp_path):
    code = "import sys; print('starting', file=sys.stderr); print('error: no such file', file=sys.stderr); sys.exit(2)"
    result = watch([sys.executable, "-c", code], os.environ, tmp_path / "log")
    assert (result.code, result.problem, result.step_seconds) == (2, "no such file", None)
    silent = watch([sys.executable, "-c", "raise SystemExit(3)"], os.environ, tmp_path / "log")
    assert silent.problem == "ended with status 3"
