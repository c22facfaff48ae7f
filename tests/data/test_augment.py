"""Augmentation: image and label stay together, and no class fills a crop."""

import numpy as np
import pytest

from raycomp.data.augment import augment
from raycomp.data.samples import IGNORE
from raycomp.sections import AugmentConfig

NOTHING = AugmentConfig(scale=(1.0, 1.0), flip=False, photometric=False)


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red channel is its label, so that a mismatch shows."""
    label = np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8) % 200
    return np.repeat(label[..., None], 3, axis=2), label


@pytest.mark.parametrize("seed", range(5))
def test_crop_and_flip_move_image_and_label_alike(seed):
    image, label = augment(
        coordinates(60, 70), (32, 40), AugmentConfig(scale=(1, 1), photometric=False), np.random.default_rng(seed)
    )
    assert label.shape == (32, 40)
    np.testing.assert_array_equal(image[..., 0], label)


@pytest.mark.parametrize("seed", range(5))
def test_resize_keeps_nearest_labels(seed):
    _, label = augment(coordinates(60, 70), (32, 40), AugmentConfig(), np.random.default_rng(seed))
    assert set(np.unique(label)) <= {*range(200), IGNORE}


def test_outside_the_image_is_ignored():
    _, label = augment(coordinates(20, 20), (32, 32), NOTHING, np.random.default_rng(0))
    assert (label[20:] == IGNORE).all()
    assert (label[:, 20:] == IGNORE).all()
    assert (label[:20, :20] != IGNORE).all()


def test_no_class_covers_more_than_three_quarters():
    """Class 1 fills the left of the picture: crops there are drawn again."""
    label = np.ones((64, 256), np.uint8)
    label[:, 160:] = np.arange(64)[:, None] % 4
    image = np.zeros((64, 256, 3), np.uint8)
    shares = [
        np.bincount(augment((image, label), (32, 32), NOTHING, np.random.default_rng(seed))[1].ravel()).max() / 32**2
        for seed in range(40)
    ]
    assert np.mean(np.array(shares) <= 0.75) > 0.9


def test_distortion_leaves_labels_and_changes_colours():
    image, label = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8), coordinates(40, 40)[1]
    config = AugmentConfig(scale=(1, 1), flip=False, photometric=True)
    drawn = [augment((image, label), (40, 40), config, np.random.default_rng(seed)) for seed in range(8)]
    assert all(np.array_equal(d[1], label) for d in drawn)
    assert len({d[0].tobytes() for d in drawn}) > 5
