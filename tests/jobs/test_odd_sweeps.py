# SPDX-License-Identifier: Apache-2.0
"""Sweeps of models and in places that are no good: each ends whole, or in one line."""

import os
import subprocess

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from raycomp.models import checkpoints
from raycomp.results.store import Store
from tests.conftest import seeded_model
from tests.helpers.jobs import SHAPE, command, environment

TWO = SHAPE.model_copy(update={"image": (64, 64), "classes": 2})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model that always answers the second class, and images that are all of the first."""
    place = tmp_path_factory.mktemp("odd")
    model = seeded_model(TWO)
    with torch.no_grad():
        model.decoder.mask_norm.weight.zero_()
        model.decoder.mask_norm.bias.copy_(torch.tensor([-1.0, 1.0]))
        checkpoints.save(model, place / "model.safetensors")
        model.encoder.norm.weight[0] = float("nan")
        checkpoints.save(model, place / "nan.safetensors")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind, shape, high in (("images", (64, 64, 3), 255), ("labels", (64, 64), 1)):
            (place / "data" / kind / split).mkdir(parents=True)
            for index in range(2):
                pixels = rng.integers(0, high, shape).astype(np.uint8)
                Image.fromarray(pixels).save(place / "data" / kind / split / f"{index}.png")
    space = {
        "name": "odd",
        "model": {"checkpoint": str(place / "model.safetensors"), "shape": TWO.model_dump(mode="json")},
        "data": {"dataset": "folders", "root": str(place / "data"), "classes": ["a", "b"]},
        "evaluation": {"search": {"clean": 1, "corrupted": 1}, "full": {"clean": 2, "corrupted": 1}},
        "nvit": {"images": 2, "batch": 1},
        "search": {"trials": 4, "budget": "80%", "baselines": ["70%"], "workers": 1},
    }
    (place / "space.yaml").write_text(yaml.safe_dump(space))
    space["search"]["trial_seconds"] = 1e-3
    (place / "impatient.yaml").write_text(yaml.safe_dump(space))
    space["model"]["checkpoint"] = str(place / "nan.safetensors")
    (place / "nan.yaml").write_text(yaml.safe_dump(space))
    return place


def run(place, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    own = {**environment(place), **variables}
    return subprocess.run(
        command(place, *options), env=own, cwd=place, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_a_model_of_no_accuracy_is_searched_to_the_end_in_ascii_behind_a_link(place):
    (place / "elsewhere").mkdir()
    (place / "link").symlink_to(place / "elsewhere")
    name = 255 * "n"
    done = run(place, "--results", "link", "--name", name, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0.00 +-0.0" in done.stdout
    correlation = "rank correlation of clean_miou between search stage and full set: Spearman undefined"
    assert f"{correlation}, as all values are equal" in done.stdout
    assert "Warning" not in done.stdout + done.stderr
    assert {row.clean_miou for row in Store(place / "elsewhere" / name).rows()} == {0.0}
    assert (place / "elsewhere" / name / "report.html").is_file()


@pytest.mark.slow
def test_a_dense_model_that_cannot_be_measured_ends_the_sweep(place):
    done = run(place, "--space", str(place / "impatient.yaml"), "--name", "impatient")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: the dense model could not be measured: TimeoutError: not done within 0.001 seconds" in done.stderr
    assert "raycomp pick" not in done.stdout
    assert len(Store(place / "results" / "impatient").rows()) < 1 + 4


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_weights_that_are_not_finite_are_refused_before_anything_runs(place, options):
    done = run(place, "--space", str(place / "nan.yaml"), "--name", "nan", *options)
    said = [line for line in done.stdout.splitlines() if not line.startswith("trials run on")]
    assert (done.returncode, said) == (2, [])
    assert done.stderr.count("\n") == 1
    assert "nan.safetensors: tensor 'encoder.norm.weight' is not finite: 1 of 32 values" in done.stderr
    assert not (place / "results" / "nan").exists()


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_temporary_folder_too_long_for_ray_is_one_line(place, monkeypatch, variable):
    long = place / (90 * "x")
    long.mkdir(exist_ok=True)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    done = run(place, "--name", "long", **{variable: os.fspath(long)})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {variable} {long}: path too long for Ray's sockets")
    assert done.stderr.count("\n") == 1
