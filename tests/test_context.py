"""What trials share, made from files."""

import numpy as np
import pytest
import torch
from PIL import Image

from raycomp.config import SweepConfig
from raycomp.context.calibration import score
from raycomp.errors import UserError
from tests.conftest import TINY, seeded_model

SHAPE = TINY.model_copy(update={"classes": 2})


def config(root, labelled: tuple[bool, ...]) -> SweepConfig:
    """Training images of which some have labels."""
    rng = np.random.default_rng(0)
    for number, has in enumerate(labelled):
        image, label = rng.integers(0, 255, (*SHAPE.image, 3)), rng.integers(0, 2, SHAPE.image)
        for kind, array in (("images", image), ("labels", label if has else label * 0 + 255)):
            (root / kind / "train").mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(root / kind / "train" / f"{number}.png")
    data = {"dataset": "folders", "root": str(root), "classes": ["field", "barn"]}
    nvit = {"images": len(labelled), "batch": 1}
    return SweepConfig.model_validate({"name": "x", "model": {"checkpoint": "x"}, "data": data, "nvit": nvit})


def test_saliency_passes_over_images_without_labels(tmp_path):
    """They made it NaN, and what was pruned then was chance."""
    model, cpu = seeded_model(SHAPE), torch.device("cpu")
    some = score(model, config(tmp_path / "some", (True, False)), cpu, "taylor")
    alone = score(model, config(tmp_path / "alone", (True,)), cpu, "taylor")
    assert all(torch.equal(some[name], alone[name]) for name in alone)
    assert all(scores.isfinite().all() for scores in some.values())
    with pytest.raises(UserError, match=r"data\.train_split train: no image has a labelled pixel in its centre crop"):
        score(model, config(tmp_path / "none", (False, False)), cpu, "taylor")
