# SPDX-License-Identifier: Apache-2.0
"""Predict as a shell sees it: what it writes, what it says beside it, and what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image

from raycomp.deploy import model as models
from tests.conftest import TINY, seeded_model
from tests.helpers.deploy import CLASSES, DATA
from tests.helpers.jobs import raycomp


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    model = seeded_model(TINY)
    models.save(model, models.card_of(model, DATA, CLASSES), folder / "m.safetensors")
    (folder / "in").mkdir()
    for name, color in (("x.png", 0), ("x.jpg", 200)):
        Image.fromarray(np.full((48, 64, 3), color, np.uint8)).save(folder / "in" / name)
    return folder


def test_images_of_one_name_have_a_picture_each_and_a_note_says_what_the_model_is_for(folder):
    done = raycomp(folder, "predict", "m.safetensors", "in", "--out", "out", "--labels", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("note: the model was trained on drawn street scenes") == 1
    made = json.loads(done.stdout)
    assert [one["picture"] for one in made] == ["out/x.jpg.png", "out/x.png.png"]
    names = {"x.jpg.png", "x.jpg_labels.png", "x.png.png", "x.png_labels.png"}
    assert {path.name for path in (folder / "out").iterdir()} == names


def test_an_image_is_never_overwritten(folder):
    before = (folder / "in" / "x.png").read_bytes()
    done = raycomp(folder, "predict", "m.safetensors", "in/x.png", "--out", "in")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --out in: the folder of in/x.png; choose another")
    assert (folder / "in" / "x.png").read_bytes() == before


@pytest.mark.slow
def test_only_torch_is_compiled(folder):
    done = raycomp(folder, "speed", "m.safetensors", "--compile", "--runtime", "onnxruntime")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --compile needs torch in --runtime, not onnxruntime\n"
