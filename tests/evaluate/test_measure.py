"""Measuring a model on images of which some have no label."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from raycomp.data.corruptions import VARIANTS
from raycomp.data.samples import NORMALIZATIONS
from raycomp.errors import UserError
from raycomp.evaluate.measure import measure
from raycomp.evaluate.miou import normalised
from raycomp.evaluate.robustness import summary
from raycomp.recipe import dense
from raycomp.search.proposal import Proposal
from raycomp.search.trial import run_trial
from tests.bases import SHAPE
from tests.data.test_labelled import unlabelled

CPU = torch.device("cpu")


def measured(base, data, stage="full"):
    return measure(base.model, data, stage, base.config.evaluation, base.config.data, CPU)


def loops(base, data, variant):
    """mIoU of a variant pixel by pixel; NaN where none is labelled."""
    pixels = NORMALIZATIONS[SHAPE.normalization]
    hits, union = np.zeros(SHAPE.classes), np.zeros(SHAPE.classes)
    for index in np.flatnonzero(data.variants == variant):
        image = torch.from_numpy(np.array(data.images.views()[index]))[None]
        with torch.inference_mode():
            predicted = base.model(normalised(image, pixels.mean, pixels.std, torch.float32))[0].argmax(0).numpy()
        truth = data.labels.views()[data.label_of[index]][..., 0]
        for c in range(SHAPE.classes):
            hits[c] += ((truth == c) & (predicted == c)).sum()
            union[c] += (((truth == c) | (predicted == c)) & (truth != 255)).sum()
    return np.mean((hits / np.maximum(union, 1))[union > 0]) if union.any() else np.nan


def test_variants_of_images_without_labels_are_left_out(base):
    """They counted as mIoU 0: with one image of two unlabelled, corrupted mIoU came out as half of what it is."""
    data = unlabelled(base, 1, 3)
    result = measured(base, data)
    expected = np.array([loops(base, data, variant) for variant in range(len(VARIANTS))])
    assert np.isnan(expected[1::2]).all()
    np.testing.assert_allclose(result.corrupted.reshape(-1), expected)
    assert result.clean_miou == pytest.approx(loops(base, data, -1))
    robust = summary(result.corrupted, result.clean_miou)
    assert robust.mpc == pytest.approx(np.mean(expected[::2]))
    assert result.per_image.accuracy() == pytest.approx([result.clean_miou, robust.mpc])
    drawn = result.per_image.drawn(50)
    assert np.nanmin(drawn) > 0.5 * robust.mpc


def test_nothing_labelled_is_an_error_and_fails_a_trial(base):
    data = unlabelled(base, 0, 1)  # the clean images of the search stage
    with pytest.raises(UserError, match=r"evaluation\.search: no pixel of its clean, or of its corrupted, images is"):
        measured(base, data, "search")
    proposal = Proposal(0, "search", "reference", "", dense(SHAPE))
    row = run_trial(replace(base, evalset=data), None, proposal, None, CPU, "")
    assert row["status"] == "failed"
    assert "clean_miou" not in row
    assert "is labelled" in row["error"]
