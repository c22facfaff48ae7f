# SPDX-License-Identifier: Apache-2.0
"""The published protocol: logits averaged over windows, upsampled to each image's own size, labels never resized."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raycomp.data.evalset import Stack
from raycomp.evaluate.measure import measure
from raycomp.evaluate.sliding import anchors
from raycomp.recipe import dense
from tests.helpers.contexts import CLEAN_IMAGES

CPU = torch.device("cpu")
SIZES = [(64, 64), (100, 100), (37, 50), (100, 100)]


def labelled_at(context, sizes):
    rng = np.random.default_rng(1)
    labels = [rng.integers(0, 11, size).astype(np.uint8) for size in sizes]
    labels[1][:30] = 255
    return replace(context, evalset=replace(context.evalset, originals=Stack.of(labels))), labels


def brute_force(model, image, size) -> np.ndarray:
    """Classes of the pixels of an image's original size, a window at a time, by the steps of REFERENCE 3."""
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].double() / 127.5 - 1
    total, count = torch.zeros(1, 11, 64, 64).double(), torch.zeros(64, 64).double()
    for top in anchors(64, 48, 32):
        for left in anchors(64, 48, 32):
            total[..., top : top + 48, left : left + 48] += model(x[..., top : top + 48, left : left + 48])
            count[top : top + 48, left : left + 48] += 1
    return F.interpolate(total / count, size, mode="bilinear")[0].argmax(0).numpy()


def test_the_full_set_is_measured_at_the_original_size(context):
    made, labels = labelled_at(context, SIZES)
    sizes = context.config.data.model_copy(update={"window": (48, 48), "stride": 32})
    result = measure(made.cut(dense(context.shape)), made.evalset, "full", context.config.evaluation, sizes, CPU)
    model = made.cut(dense(context.shape)).double()
    hits, union = np.zeros(11), np.zeros(11)
    for index in range(CLEAN_IMAGES):
        predicted, truth = brute_force(model, context.evalset.images.views()[index], SIZES[index]), labels[index]
        for cls in range(11):
            hits[cls] += ((predicted == cls) & (truth == cls)).sum()
            union[cls] += (((predicted == cls) | (truth == cls)) & (truth != 255)).sum()
    np.testing.assert_allclose(result.class_iou, hits / union, atol=2e-3)  # float64 against float32: near ties
    assert result.clean_miou == pytest.approx(np.mean(hits / union), abs=2e-4)


@pytest.mark.parametrize(
    ("stage", "at", "same"), [("full", "original", False), ("full", "resized", True), ("search", "original", True)]
)
def test_the_search_stage_and_whoever_asks_keep_to_resized_labels(context, stage, at, same):
    made, _ = labelled_at(context, SIZES)
    config = context.config.evaluation.model_copy(update={"at": at})
    found = measure(made.cut(dense(context.shape)), made.evalset, stage, config, context.config.data, CPU)
    resized = measure(context.cut(dense(context.shape)), context.evalset, stage, config, context.config.data, CPU)
    assert (found.clean_miou == resized.clean_miou) == same
