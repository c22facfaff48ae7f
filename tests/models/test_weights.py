"""The checkpoint that ships: small, of the search space's shape, and as good as its card says."""

from pathlib import Path

import numpy as np
import pytest
import torch

from raycomp import config as configs
from raycomp.data.samples import NORMALIZATIONS
from raycomp.data.streetscenes import VERSION, StreetScenes
from raycomp.evaluate.miou import class_iou, confusion, normalised
from raycomp.models import checkpoints

SPACE = configs.load(Path(__file__).resolve().parents[2] / "search_spaces" / "streetscenes_vit_micro.yaml")
WEIGHTS = checkpoints.locate(SPACE.model.checkpoint)


def test_it_is_small_and_has_a_card():
    assert WEIGHTS.stat().st_size < 4e6
    card = WEIGHTS.with_suffix(".md").read_text()
    for fact in ("command", "seed", "steps", "miou", "minutes"):
        assert f"| {fact} | {checkpoints.metadata(WEIGHTS)[fact]}" in card


def test_it_was_trained_on_this_version_of_the_scenes():
    assert checkpoints.metadata(WEIGHTS)["train_data"].startswith(f"streetscenes-v{VERSION}-train-")


@pytest.mark.slow
def test_its_accuracy_is_what_the_card_says_on_scenes_nobody_looked_at():
    model = checkpoints.load(WEIGHTS, SPACE.model.shape)
    pixels, scenes = NORMALIZATIONS["vit"], StreetScenes("test", 200)
    matrix = torch.zeros(11, 11, dtype=torch.int64)
    with torch.inference_mode():
        for index in range(len(scenes)):
            image, label = scenes[index]
            x = normalised(torch.from_numpy(image)[None], pixels.mean, pixels.std, torch.float32)
            matrix += confusion(torch.from_numpy(label)[None], model(x).argmax(1), 11)
    measured = float(np.nanmean(class_iou(matrix.numpy())))
    assert measured == pytest.approx(float(checkpoints.metadata(WEIGHTS)["miou"]), abs=0.02)
