# SPDX-License-Identifier: Apache-2.0
"""Images on a device are those of the stack, held or not."""

import weakref

import numpy as np
import pytest
import torch

from raycomp.data.evalset import Stack
from raycomp.evaluate.resident import Resident, resident

CPU = torch.device("cpu")
SIZES = [(4, 5), (3, 3), (8, 2), (3, 3), (1, 9)]


@pytest.fixture
def images(rng) -> list[np.ndarray]:
    return [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in SIZES]


@pytest.mark.parametrize(
    ("wanted", "limit", "held"),
    [
        ([[0, 1, 4]], 10**6, [0, 1, 4]),
        ([[4, 0], [0, 1, 2, 4]], 10**6, [0, 1, 2, 4]),
        ([[2, 3]], 3 * (16 + 9), [2, 3]),
        ([[2, 3]], 3 * (16 + 9) - 1, []),  # one byte too many: none
        ([[1], [0, 1, 2, 3]], 3 * 30, [1]),  # what is there stays
        ([[]], 0, []),
    ],
)
def test_held_images_equal_the_stack(images, wanted, limit, held):
    stack = Stack.of(images)
    found = Resident(stack, CPU)
    for indices in wanted:
        found.hold(indices, limit)
    for index, image in enumerate(images):
        assert found.shape(index) == image.shape
        np.testing.assert_array_equal(found[index].numpy(), image)
    assert [index for index in range(len(images)) if found[index] is found[index]] == held


def test_the_cpu_has_no_copies_and_a_stack_one_place(images):
    stack, other = Stack.of(images), Stack.of(images)
    found = resident(stack, CPU, range(5))
    assert np.shares_memory(found[2].numpy(), stack.pixels)
    assert resident(stack, torch.device("cpu"), [1]) is found
    assert resident(other, CPU, [1]) is not found


def test_nothing_outlives_its_stack(images):
    stack = Stack.of(images)
    held = weakref.ref(resident(stack, CPU, [0]))
    assert held() is not None
    del stack
    assert held() is None
