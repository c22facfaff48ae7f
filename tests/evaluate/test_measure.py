# SPDX-License-Identifier: Apache-2.0
"""Measuring a model on images of which some have no label."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from raycomp.data.corruptions import VARIANTS
from raycomp.data.evalset import Stack
from raycomp.data.samples import NORMALIZATIONS
from raycomp.errors import UserError
from raycomp.evaluate.measure import measure
from raycomp.evaluate.robustness import summary
from raycomp.evaluate.sliding import normalised
from raycomp.merging import Algm, ToMe
from raycomp.recipe import Recipe, dense
from raycomp.search.proposal import Proposal
from raycomp.search.trial import run_trial
from raycomp.settings.evaluation import StageConfig
from tests.helpers.contexts import SHAPE, unlabelled

CPU = torch.device("cpu")


def measured(context, data, stage="full"):
    return measure(context.model, data, stage, context.config.evaluation, context.config.data, CPU)


def loops(context, data, variant):
    """mIoU of a variant pixel by pixel; NaN where none is labelled."""
    pixels = NORMALIZATIONS[SHAPE.normalization]
    hits, union = np.zeros(SHAPE.classes), np.zeros(SHAPE.classes)
    for index in np.flatnonzero(data.variants == variant):
        image = torch.from_numpy(np.array(data.images.views()[index]))[None]
        with torch.inference_mode():
            predicted = context.model(normalised(image, pixels.mean, pixels.std, torch.float32))[0].argmax(0).numpy()
        truth = data.labels.views()[data.label_of[index]][..., 0]
        for c in range(SHAPE.classes):
            hits[c] += ((truth == c) & (predicted == c)).sum()
            union[c] += (((truth == c) | (predicted == c)) & (truth != 255)).sum()
    return np.mean((hits / np.maximum(union, 1))[union > 0]) if union.any() else np.nan


def test_variants_of_images_without_labels_are_left_out(context):
    """They counted as mIoU 0: with one image of two unlabelled, corrupted mIoU came out as half of what it is."""
    data = unlabelled(context, 1, 3)
    result = measured(context, data)
    expected = np.array([loops(context, data, variant) for variant in range(len(VARIANTS))])
    assert np.isnan(expected[1::2]).all()
    np.testing.assert_allclose(result.corrupted.reshape(-1), expected)
    assert result.clean_miou == pytest.approx(loops(context, data, -1))
    robust = summary(result.corrupted, result.clean_miou)
    assert robust.mpc == pytest.approx(np.mean(expected[::2]))
    assert result.per_image.accuracy() == pytest.approx([result.clean_miou, robust.mpc])
    drawn = result.per_image.drawn(50)
    assert np.nanmin(drawn) > 0.5 * robust.mpc


@pytest.mark.parametrize(
    ("window", "stride"),
    [
        (None, None),
        ((60, 45), 40),  # 8x6 patches, the last ones not whole
        ((30, 74), 24),  # wider than some images
    ],
)
@pytest.mark.parametrize("merge", [None, ToMe(ratios=(0.25, 0.0, 0.1, 0.0)), Algm(threshold=0.9, blocks=(1, 3))])
def test_images_of_any_size_in_windows_of_any_size(context, window, stride, merge):
    """Portrait, landscape and odd; alone or in a batch, to the same figures."""
    sizes = [(64, 64), (91, 57), (57, 91), (64, 64)]
    images, labels = context.evalset.images.views(), context.evalset.labels.views()

    def fitted(array, source):
        return np.ascontiguousarray(np.tile(array, (2, 2, 1))[: sizes[source][0], : sizes[source][1]])

    data = replace(
        context.evalset,
        images=Stack.of([fitted(i, source) for i, source in zip(images, context.evalset.label_of, strict=True)]),
        labels=Stack.of([fitted(label, source)[..., 0] for source, label in enumerate(labels)]),
    )
    config = context.config.evaluation.model_copy(update={"full": StageConfig(clean=4, corrupted=1, severities=(2,))})
    sizes_of = context.config.data.model_copy(update={"window": window, "stride": stride})
    model = context.cut(Recipe(embed=64, blocks=dense(SHAPE).blocks, merge=merge))
    batched, single = (
        measure(model, data, "full", config.model_copy(update={"batch": batch}), sizes_of, CPU) for batch in (3, 1)
    )
    assert batched.clean_miou == pytest.approx(single.clean_miou, abs=2e-3)
    assert batched.per_image.union.sum() == single.per_image.union.sum() > 0
    assert 0 < batched.rank.mean <= 1
    assert np.isfinite(batched.corrupted[:, 1]).all()


def test_nothing_labelled_is_an_error_and_fails_a_trial(context):
    data = unlabelled(context, 0, 1)  # the clean images of the search stage
    with pytest.raises(UserError, match=r"evaluation\.search: no pixel is labelled in its clean images, or in"):
        measured(context, data, "search")
    proposal = Proposal(0, "search", "reference", "", dense(SHAPE))
    row = run_trial(replace(context, evalset=data), None, proposal, None, CPU, "")
    assert row.status == "failed"
    assert row.clean_miou is None
    assert "is labelled" in row.error
