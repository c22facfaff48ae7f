# SPDX-License-Identifier: Apache-2.0
"""Augmentation: image and label stay together, and no class fills a crop."""

import numpy as np
import pytest

from raycomp.data.augment import augment, padded
from raycomp.data.samples import IGNORE
from raycomp.errors import UserError
from raycomp.settings.training import AugmentConfig
from raycomp.shape import OWN_SIZE, Scale, enlarged_to

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
    image, label = augment(coordinates(20, 25), (32, 32), NOTHING, np.random.default_rng(0))
    assert label.shape == (20, 25)
    image, label = padded((image, label), (32, 32))
    assert image.shape == (32, 32, 3)
    assert (label[20:] == IGNORE).all()
    assert (label[:, 25:] == IGNORE).all()
    assert (label[:20, :25] != IGNORE).all()


@pytest.mark.parametrize(
    ("size", "scale", "factor", "expected"),
    [
        ((1200, 1600), Scale(512, 2048), 0.5, (256, 341)),
        ((1200, 1600), Scale(512, 2048), 1.0, (512, 683)),
        ((1600, 1200), Scale(512, 2048), 2.0, (1365, 1024)),
        ((300, 2000), Scale(512, 2048), 1.0, (307, 2048)),
        ((300, 2000), Scale(512, 2048), 0.5, (154, 1024)),
        ((300, 2000), Scale(512), 1.0, (512, 3413)),
        ((512, 683), Scale(512, 2048), 1.0, (512, 683)),
        ((1200, 1600), OWN_SIZE, 0.5, (600, 800)),
        ((1024, 2048), Scale(1024, 2048), 1.5, (1536, 3072)),
    ],
)
def test_the_training_scale_starts_from_the_base_size(size, scale, factor, expected):
    """As mmsegmentation's Resize with keep_ratio."""
    assert scale.of(size, factor) == expected
    config = AugmentConfig(scale=(factor, factor), flip=False, photometric=False)
    _, label = augment(coordinates(*size), (4000, 4000), config, np.random.default_rng(0), scale)
    assert label.shape == expected


@pytest.mark.parametrize("resize", [Scale(512).of, lambda size: enlarged_to(size, (64, 64))])
def test_a_sliver_is_not_enlarged_until_memory_is_full(resize):
    with pytest.raises(UserError, match=r"an image of 1x9000000 would be resized to \d+x\d+ pixels"):
        resize((1, 9_000_000))


def picture(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((*label.shape, 3), np.uint8), label


def test_no_class_covers_three_quarters_of_a_crop():
    """Class 1 fills the left of the picture: crops there are drawn again."""
    label = np.ones((64, 256), np.uint8)
    label[:, 160:] = np.arange(64)[:, None] % 4
    shares = [
        np.bincount(augment(picture(label), (32, 32), NOTHING, np.random.default_rng(seed))[1].ravel()).max() / 32**2
        for seed in range(40)
    ]
    assert np.mean(np.array(shares) < 0.75) > 0.9


@pytest.mark.parametrize(
    ("label", "draws"),
    [
        (np.zeros((8, 40), np.uint8), 11),  # one class
        (np.full((8, 40), IGNORE, np.uint8), 11),  # nothing labelled
        (np.tile(np.array([0, 0, 0, 1], np.uint8), (8, 10)), 11),  # exactly three quarters
        (np.tile(np.array([0, 0, 1, 1], np.uint8), (8, 10)), 1),
        (np.tile(np.array([0, 1, IGNORE, IGNORE], np.uint8), (8, 10)), 1),  # half of what is labelled
    ],
)
def test_a_crop_is_drawn_again_ten_times_at_most(label, draws):
    rng = np.random.default_rng(0)
    columns = [int(rng.integers(0, size)) for _ in range(11) for size in (1, 33)][1::2]
    image = np.tile(np.arange(40, dtype=np.uint8)[None, :, None], (8, 1, 3))
    drawn, _ = augment((image, label), (8, 8), NOTHING, np.random.default_rng(0))
    assert drawn[0, 0, 0] == columns[draws - 1]


def test_distortion_leaves_labels_and_changes_colours():
    image, label = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8), coordinates(40, 40)[1]
    config = AugmentConfig(scale=(1, 1), flip=False, photometric=True)
    drawn = [augment((image, label), (40, 40), config, np.random.default_rng(seed)) for seed in range(8)]
    assert all(np.array_equal(d[1], label) for d in drawn)
    assert len({d[0].tobytes() for d in drawn}) > 5
