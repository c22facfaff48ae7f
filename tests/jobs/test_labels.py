# SPDX-License-Identifier: Apache-2.0
"""What the jobs say of labels that are not enough."""

import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from raycomp.models import checkpoints
from tests.conftest import TINY, seeded_model
from tests.helpers.jobs import ROOT, execute

SHAPE = TINY.model_copy(update={"classes": 2})
pytestmark = pytest.mark.slow
ABSENT = "data.eval_split val: none of the 2 labels contains class 'barn' (1)"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Masks of 0 and 255 in `val`, nothing but 255 in `test`, and images in portrait that are stored lying down."""
    folder = tmp_path_factory.mktemp("labels")
    checkpoints.save(seeded_model(SHAPE), folder / "model.safetensors")
    rng, exif = np.random.default_rng(0), Image.Exif()
    exif[0x112] = 6
    for split in ("train", "val", "test"):
        for number in range(2):
            for kind in ("images", "labels"):
                (folder / "data" / kind / split).mkdir(parents=True, exist_ok=True)
            image = rng.integers(0, 255, (70, 51, 3), np.uint8)
            Image.fromarray(image).save(folder / f"data/images/{split}/{number}.JPG", exif=exif)
            label = np.full((51, 70), 255, np.uint8)
            if split != "test":
                label[:, 20:] = 0
            Image.fromarray(label).save(folder / f"data/labels/{split}/{number}.PNG")
    stage = {"clean": 2, "corrupted": 1}
    space = {
        "name": "masks",
        "model": {"checkpoint": "model.safetensors", "shape": SHAPE.model_dump(mode="json")},
        "data": {"dataset": "folders", "root": "data", "classes": ["field", "barn"]},
        "evaluation": {"search": stage, "full": stage},
        "space": {"mlp": {"low": 64, "step": 16}},
        "train": {"steps": 1, "batch": 2},
    }
    (folder / "val.yaml").write_text(yaml.safe_dump(space))
    space["data"]["eval_split"] = "test"
    (folder / "test.yaml").write_text(yaml.safe_dump(space))
    return folder


def run(place, job: str, space: str, *options: str):
    return execute(place, sys.executable, str(ROOT / "jobs" / job), "--space", space, *options)


def test_a_dry_run_names_classes_without_labels(place):
    done = run(place, "pareto_search.py", "val.yaml", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert ABSENT in done.stdout


@pytest.mark.parametrize("job", [("pareto_search.py",), ("train.py", "--out", "x.safetensors")])
def test_a_split_without_labels_is_refused(place, job):
    done = run(place, job[0], "test.yaml", *job[1:])
    assert done.returncode == 2
    assert "data.eval_split test: no pixel is labelled in any of the 2 images to measure on" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "results").exists()


def test_a_training_names_classes_without_labels(place):
    done = run(place, "train.py", "val.yaml", "--out", "trained.safetensors")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ABSENT in done.stdout
