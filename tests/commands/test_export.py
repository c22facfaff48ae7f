# SPDX-License-Identifier: Apache-2.0
"""Predict as a shell sees it: what it writes, what it says beside it, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from raycomp.commands.export import _files
from raycomp.deploy import model as models
from raycomp.deploy.predict import open_model
from raycomp.errors import UserError
from tests.conftest import TINY, seeded_images, seeded_model
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


def test_float32_weights_of_an_int8_recipe_say_so(folder, caplog):
    model = seeded_model(TINY)
    model.recipe = model.recipe.at("int8")
    models.save(model, models.card_of(model, DATA, CLASSES), folder / "i.safetensors")
    loaded = models.load(folder / "i.safetensors")
    assert loaded.recipe == model.recipe
    images = seeded_images(TINY)
    assert torch.equal(loaded(images), model(images))
    run, _ = open_model(folder / "i.safetensors", torch.device("cpu"))
    assert "float32 weights of an INT8 recipe; its INT8 model is the .int8.onnx file" in caplog.text
    assert torch.equal(run(images), model(images))


@pytest.mark.parametrize(
    ("formats", "precision", "files"),
    [
        (None, None, (["safetensors", "onnx"], [])),
        ("safetensors", None, (["safetensors"], [])),
        ("onnx", "fp32,int8", (["onnx"], ["fp32", "int8"])),
    ],
)
def test_the_recipe_decides_on_the_precision_unless_it_is_named(formats, precision, files):
    assert _files(formats, precision, bundle=False) == files
    with pytest.raises(UserError, match="--precision int8 needs onnx in --formats, not only pt2"):
        _files("pt2", "int8", bundle=False)


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
