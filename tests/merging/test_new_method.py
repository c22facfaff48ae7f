# SPDX-License-Identifier: Apache-2.0
"""A method is one class and its name in the union: a process with one more passes what the shipped methods pass."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_new_method_is_built_counted_searched_matched_benchmarked_and_exported():
    tests = ["tests/merging/test_methods.py", "-k", "drop", "-p", "no:cacheprovider", "-p", "tests.merging.drop"]
    ran = subprocess.run([sys.executable, "-m", "pytest", *tests], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
    assert int(re.search(r"(\d+) passed", ran.stdout)[1]) >= 20
