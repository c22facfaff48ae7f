# SPDX-License-Identifier: Apache-2.0
"""Jobs and commands that write one file refuse one that they read, before they start on anything."""

import sys

import pytest

from raycomp.models import checkpoints
from tests.conftest import seeded_model
from tests.helpers.jobs import ROOT, SHAPE, execute, make_place


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = make_place(tmp_path_factory.mktemp("outputs"))
    checkpoints.save(seeded_model(SHAPE), place / "space.safetensors")
    return place


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize(
    ("job", "options", "said"),
    [
        ("train", "--out model.safetensors --start model.safetensors", "overwrite model.safetensors, which this"),
        ("train", "--out model.safetensors --elastic", "overwrite model.safetensors, which this command reads"),
        ("train", "--out model.safetensors --start model.state", "would overwrite model.state, which this command"),
        ("train", "--out model.md", "--out model.md: expected a file that ends in .safetensors, as in model.safeten"),
        ("prune", "--gflops 60% --out model.safetensors", "would overwrite model.safetensors, which this command"),
        ("prune", "--gflops 60% --out space.safetensors", "would overwrite space.yaml, which this command reads"),
        ("prune", "--gflops 60% --out space.yaml", "--out space.yaml: expected a file that ends in .safetensors"),
    ],
)
def test_a_job_overwrites_nothing_that_it_reads(place, job, options, said):
    before = {path: path.read_bytes() for path in place.iterdir() if path.is_file()}
    done = execute(place, sys.executable, str(ROOT / "jobs" / f"{job}.py"), "--space", "space.yaml", *options.split())
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in place.iterdir() if path.is_file()} == before
