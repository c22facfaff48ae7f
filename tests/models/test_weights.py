# SPDX-License-Identifier: Apache-2.0
"""The checkpoints that ship: small, of the search space's shape, and as good as their cards say."""

from pathlib import Path

import numpy as np
import pytest
import torch

from raycomp import config as configs
from raycomp.compress.apply import compress
from raycomp.data.samples import NORMALIZATIONS
from raycomp.data.streetscenes import VERSION, StreetScenes
from raycomp.evaluate.confusions import confusion
from raycomp.evaluate.miou import class_iou
from raycomp.evaluate.sliding import normalised
from raycomp.models import checkpoints
from raycomp.models.segmenter import Segmenter
from raycomp.results.query import uniform_baselines
from raycomp.search.baselines import matched_baselines
from raycomp.space import Space

SPACE = configs.load(Path(__file__).resolve().parents[2] / "search_spaces" / "streetscenes_vit_micro.yaml")
DENSE = checkpoints.locate(SPACE.model.checkpoint)
ELASTIC = checkpoints.locate(str(SPACE.model.elastic))


def accuracy(model: Segmenter) -> float:
    """mIoU on scenes nobody looked at."""
    pixels, scenes = NORMALIZATIONS["vit"], StreetScenes("test", 200)
    matrix = torch.zeros(11, 11, dtype=torch.int64)
    with torch.inference_mode():
        for index in range(len(scenes)):
            image, label = scenes[index]
            x = normalised(torch.from_numpy(image)[None], pixels.mean, pixels.std, torch.float32)
            matrix += confusion(torch.from_numpy(label)[None], model(x).argmax(1), 11)[0]
    return float(np.nanmean(class_iou(matrix.numpy())))


@pytest.mark.parametrize("weights", [DENSE, ELASTIC], ids=["dense", "elastic"])
def test_it_is_small_and_has_a_card(weights):
    assert weights.stat().st_size < 4e6
    card = weights.with_suffix(".md").read_text()
    for fact in ("command", "seed", "steps", "miou", "minutes"):
        assert f"| {fact} | {checkpoints.metadata(weights)[fact]}" in card


@pytest.mark.parametrize("weights", [DENSE, ELASTIC], ids=["dense", "elastic"])
def test_it_was_trained_on_this_version_of_the_scenes(weights):
    assert checkpoints.metadata(weights)["train_data"].startswith(f"streetscenes-v{VERSION}-train-")


@pytest.mark.slow
@pytest.mark.parametrize("weights", [DENSE, ELASTIC], ids=["dense", "elastic"])
def test_its_accuracy_is_what_the_card_says(weights):
    model = checkpoints.load(weights, SPACE.model.shape)
    assert accuracy(model) == pytest.approx(float(checkpoints.metadata(weights)["miou"]), abs=0.02)


@pytest.mark.slow
def test_a_narrow_recipe_of_the_elastic_one_is_as_good_as_its_card_says():
    model, shape = checkpoints.load(ELASTIC, SPACE.model.shape), SPACE.model.shape
    space = Space(shape, SPACE.space, shape.image)
    assert space.config == checkpoints.elastic_space(ELASTIC)
    narrowest, kind = space.recipe(space.smallest), uniform_baselines(space.merging.title)[-1]
    found = matched_baselines(shape, space.image, (0.27,), narrowest=narrowest, merging=space.merging)
    recipe = next(one.recipe for one in found if one.kind == kind)
    row = next(line for line in ELASTIC.with_suffix(".md").read_text().splitlines() if f"{kind} | 27%" in line)
    claimed = float(row.split("|")[3])
    assert accuracy(compress(model, recipe, None)) == pytest.approx(claimed, abs=0.02)
