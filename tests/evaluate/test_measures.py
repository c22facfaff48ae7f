# SPDX-License-Identifier: Apache-2.0
"""Figures against loops and closed forms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raycomp.evaluate.confusions import confusion
from raycomp.evaluate.effective_rank import erank
from raycomp.evaluate.labels import labels_at
from raycomp.evaluate.miou import class_iou, miou
from raycomp.evaluate.robustness import corruption_degradation, known_mean, relative_corruption_degradation, summary
from raycomp.evaluate.sliding import anchors, normalised, sliding_logits


def test_confusion_and_iou_equal_loops(rng):
    truth, predicted = rng.integers(0, 4, (3, 9, 7)), rng.integers(0, 4, (3, 9, 7))
    truth[0, :2] = 255
    matrix = confusion(torch.from_numpy(truth), torch.from_numpy(predicted), 4).sum(0).numpy()
    expected = np.zeros((4, 4), int)
    for t, p in zip(truth.ravel(), predicted.ravel(), strict=True):
        if t != 255:
            expected[t, p] += 1
    assert np.array_equal(matrix, expected)
    valid = truth != 255
    for cls in range(4):
        both = ((truth == cls) & (predicted == cls) & valid).sum()
        either = (((truth == cls) | (predicted == cls)) & valid).sum()
        assert class_iou(matrix)[cls] == pytest.approx(both / either)


def test_miou_leaves_out_absent_classes_and_is_nan_of_nothing():
    matrix = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert np.isnan(class_iou(matrix)[2])
    assert miou(matrix) == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert np.isnan(miou(np.zeros((3, 3), int)))


@pytest.mark.parametrize(
    ("side", "window", "stride", "expected"),
    [
        (768, 768, 512, [0]),
        (1024, 768, 512, [0, 256]),
        (2048, 768, 512, [0, 512, 1024, 1280]),
        (300, 512, 512, [0]),
        (1024, 512, 512, [0, 512]),
    ],
)
def test_window_anchors_end_flush(side, window, stride, expected):
    assert anchors(side, window, stride) == expected


def test_sliding_window_averages_overlaps():
    """Each window answers with its own number: every pixel must get the mean over its windows."""
    calls: list[int] = []

    def model(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(calls))
        return torch.full((1, 2, 4, 4), float(calls[-1]))

    logits = sliding_logits(model, torch.zeros(1, 3, 4, 6), (4, 4), 3)
    assert logits[0, 0, 0].tolist() == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]


def test_small_images_are_enlarged_to_a_window():
    images = torch.randn(1, 3, 3, 9, generator=torch.Generator().manual_seed(0))
    logits = sliding_logits(lambda x: x[:, :2], images, (4, 4), 4)
    torch.testing.assert_close(logits, F.interpolate(images, (4, 12), mode="bilinear")[:, :2])


@pytest.mark.parametrize("classes", [3, 16, 40])
def test_labels_at_another_size_are_those_of_the_upsampled_logits(classes):
    """Ties go to the lower class, as in argmax; a few classes at a time, which 40 shows."""
    logits = torch.randn(2, classes, 5, 7, generator=torch.Generator().manual_seed(classes))
    logits[:, classes // 2] = logits[:, -1] = 2.5
    for size in ((5, 7), (11, 9), (3, 20)):
        assert torch.equal(labels_at(logits, size), F.interpolate(logits, size, mode="bilinear").argmax(1))


def test_normalisation_is_mean_and_std_of_unit_range():
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 1, 1, 3)
    x = normalised(images, (0.5, 0.25, 0.1), (0.5, 0.5, 0.2), torch.float64)
    torch.testing.assert_close(x.flatten().tolist(), [-1.0, 1.5, 0.5], rtol=1e-6, atol=1e-6)


def test_robustness_figures(rng):
    table, reference = rng.random((16, 5)), rng.random((16, 5))
    robust = summary(table, 0.8)
    assert robust.mpc == pytest.approx(table.sum() / 80)
    assert robust.rpc == pytest.approx(robust.mpc / 0.8)
    assert robust.per_type[3] == pytest.approx(table[3].mean())
    assert robust.per_severity[4] == pytest.approx(table[:, 4].mean())
    cd = corruption_degradation(table, reference)
    assert cd[2] == pytest.approx(sum(1 - m for m in table[2]) / sum(1 - m for m in reference[2]))
    rcd = relative_corruption_degradation(table, 0.9, reference, 0.95)
    worse = sum((1 - m) - (1 - 0.9) for m in table[5])
    assert rcd[5] == pytest.approx(worse / sum((1 - m) - (1 - 0.95) for m in reference[5]))


def test_a_model_against_itself_has_degradation_one(rng):
    table = rng.random((16, 5)) * 0.5
    np.testing.assert_allclose(corruption_degradation(table, table), 1)
    np.testing.assert_allclose(relative_corruption_degradation(table, 0.7, table, 0.7), 1)


def test_variants_that_were_not_measured_do_not_count():
    table = np.full((16, 5), np.nan)
    table[:, 2] = 0.4
    robust = summary(table, 0.8)
    assert robust.mpc == pytest.approx(0.4)
    assert np.isnan(robust.per_severity[0])
    table[3] = np.nan  # nothing of what was seen with this type of corruption was labelled
    assert summary(table, 0.8).mpc == pytest.approx(0.4)
    for degradation in (
        corruption_degradation(table, table),
        relative_corruption_degradation(table, 0.8, table, 0.8),
    ):
        assert np.flatnonzero(np.isnan(degradation)).tolist() == [3]
        np.testing.assert_allclose(np.delete(degradation, 3), 1)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (torch.eye(6), 6.0),
        (torch.ones(5, 4), 1.0),
        (torch.diag(torch.tensor([1.0, 1.0, 0.0])), 2.0),
        (torch.diag(torch.tensor([2.0, 1.0])), float(np.exp(-(2 / 3) * np.log(2 / 3) - (1 / 3) * np.log(1 / 3)))),
    ],
)
def test_effective_rank_of_known_spectra(features, expected):
    assert erank(features[None]).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("error")
def test_a_reference_that_makes_no_error_or_never_degrades_relates_to_nothing():
    table, perfect, zero = np.full((2, 5), 0.5), np.ones((2, 5)), np.zeros((2, 5))
    assert np.isnan(corruption_degradation(table, perfect)).all()
    assert np.isnan(relative_corruption_degradation(table, 0.6, zero, 0.0)).all()
    assert known_mean(relative_corruption_degradation(table, 0.6, zero, 0.0)) is None
    assert known_mean(np.array([np.nan, 1.0, 3.0])) == 2.0
    assert summary(zero, 0.0).rpc == 0.0
