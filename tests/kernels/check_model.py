"""Models that merge answer with the kernels as without; `test_kernels` runs this file."""

from copy import deepcopy

import pytest
import torch

from raycomp import kernels
from raycomp.compress.apply import compress
from raycomp.recipe import Algm, Merge, ToMe, dense
from tests.conftest import TINY, seeded_images
from tests.kernels.place import DEVICE


@pytest.mark.parametrize(
    "merge",
    [
        ToMe(ratios=(0.3, 0.2, 0.1)),
        ToMe(ratios=(0.5, 0.0, 0.4), metric="keys"),
        Algm(blocks=(1, 2), windows=0.25, pairs=0.2),
        Algm(blocks=(1, 2), threshold=0.1),
    ],
)
def test_a_merging_model_answers_the_same(merge: Merge, model, saliency, monkeypatch):
    recipe = dense(TINY).model_copy(update={"merge": merge})
    made = compress(deepcopy(model), recipe, saliency).to(DEVICE)  # not the weights that other tests share
    images = seeded_images(TINY).to(DEVICE)
    with torch.inference_mode():
        monkeypatch.setattr(kernels, "usable", lambda *_: False)
        features, tokens = made.encoder(images)
        monkeypatch.setattr(kernels, "usable", lambda *_: True)
        found, kept = made.encoder(images)
    assert torch.equal(kept.source, tokens.source)
    assert torch.equal(kept.size, tokens.size)
    torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-5)
