# SPDX-License-Identifier: Apache-2.0
"""How a process ends."""

import importlib.util
import subprocess
import sys

import pytest

WORDS = "import sys; from raycomp.memory import leave_memory_to_the_system as leave; "


def ended(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WORDS + program], capture_output=True, text=True, check=False)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_reports_nothing_when_a_process_ends():
    done = ended("import triton; leave(); print('said', file=sys.stderr)")
    assert (done.returncode, done.stderr) == (0, "said\n")


def test_what_goes_wrong_after_that_is_still_told():
    done = ended("leave(); sys.exit('wrong')")
    assert (done.returncode, done.stderr) == (1, "wrong\n")
