# SPDX-License-Identifier: Apache-2.0
"""A compressed model written and read again is the same model, whatever it merges."""

import json

import pytest
import torch
import yaml

import raycomp
from raycomp.deploy import model as models
from raycomp.errors import UserError
from raycomp.models import checkpoints
from raycomp.recipe import Recipe
from tests.conftest import TINY, seeded_images
from tests.helpers.deploy import CLASSES, DATA, compressed
from tests.helpers.recipes import METHODS


@pytest.mark.parametrize("method", METHODS)
def test_a_model_comes_back_as_it_was(model, saliency, method, tmp_path):
    made, images = compressed(model, saliency, method), seeded_images(TINY, 1)
    path = tmp_path / "made.safetensors"
    models.save(made, models.card_of(made, DATA, CLASSES), path)
    again = raycomp.load(str(path))
    assert torch.equal(again(images), made(images))
    assert not again.training
    assert Recipe.model_validate(yaml.safe_load(path.with_suffix(".yaml").read_text())) == made.recipe
    card = models.read_card(path)
    assert card == models.ModelCard(
        classes=CLASSES,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        window=(48, 64),
        stride=32,
        short_side=64,
        dataset="streetscenes",
    )


def test_a_shared_model_without_its_policy_is_refused(model, saliency, tmp_path):
    made = compressed(model, saliency, "cts")
    made.encoder.sharer = None
    checkpoints.save(made, tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match="is missing"):
        raycomp.load(str(tmp_path / "cut.safetensors"))
    with pytest.raises(UserError, match="field 'facts' is missing: not written by `raycomp export`"):
        models.read_card(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2", "recipe.yaml", "empty.safetensors", "folder", "none.bin"])
def test_what_is_no_file_of_weights_is_refused_in_a_line(tmp_path, name):
    (tmp_path / "folder").mkdir()
    for other, content in (("model.onnx", b"\x08\x07"), ("model.pt2", b"PK"), ("recipe.yaml", b"embed: 4")):
        (tmp_path / other).write_bytes(content)
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(UserError) as refused:
        raycomp.load(str(tmp_path / name))
    text = str(refused.value)
    assert text.startswith(f"{tmp_path / name}: ")
    assert "\n" not in text
    assert ("expected weights in a .safetensors file" in text) == (name != "none.bin")
    assert ("`raycomp predict` runs" in text) == (name in ("model.onnx", "model.pt2"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("mean", [0.5]), ("std", [0.5, 0.5, 0]), ("window", [0, 64]), ("stride", 0), ("short_side", -1), ("classes", [])],
)
def test_facts_that_no_export_has_are_refused(model, tmp_path, field, value):
    """A stride of 0 would never end."""
    held = models.card_of(model, DATA, CLASSES).model_dump(mode="json") | {field: value}
    with pytest.raises(UserError, match=rf"m\.onnx: facts: field '{field}"):
        models.parse_card(json.dumps(held), tmp_path / "m.onnx")
