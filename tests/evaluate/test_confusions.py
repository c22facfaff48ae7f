# SPDX-License-Identifier: Apache-2.0
"""Counts of pixels against loops."""

import numpy as np
import pytest
import torch

from raycomp.evaluate.confusions import Confusions


@pytest.mark.parametrize("classes", [3, 150, 255])
def test_counts_equal_loops(rng, classes):
    truth = rng.integers(0, classes, (7, 6, 5)).astype(np.uint8)
    truth[2, :3] = 255
    truth[3] = 255
    predicted = rng.integers(0, classes, truth.shape)
    variants = np.array([0, 2, 2, 0, 1, 2, 2])
    counted = Confusions(4, classes, torch.device("cpu"))
    for start, end in ((0, 3), (3, 4), (4, 7)):
        parts = (torch.from_numpy(array[start:end]) for array in (truth, predicted, variants))
        counted.add(*parts)
    table = np.zeros((4, classes, classes), int)
    hits, union = np.zeros((7, classes), int), np.zeros((7, classes), int)
    for i, y, x in np.ndindex(truth.shape):
        t, p = int(truth[i, y, x]), predicted[i, y, x]
        if t != 255:
            table[variants[i], t, p] += 1
            union[i, t] += 1
            union[i, p] += t != p
            hits[i, t] += t == p
    np.testing.assert_array_equal(counted.table(), table)
    for found, expected in zip(counted.by_class(), (hits, union), strict=True):
        np.testing.assert_array_equal(found, expected)
