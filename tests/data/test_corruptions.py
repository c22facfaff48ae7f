# SPDX-License-Identifier: Apache-2.0
"""All 80 variants work, are seeded, and leave numpy's global state alone."""

import subprocess
import sys
import zlib

import numpy as np
import pytest

from raycomp.data.corruptions import TYPES, VARIANTS, corrupt
from raycomp.data.streetscenes import scene
from raycomp.errors import UserError

IMAGE = scene(1)[0]


@pytest.mark.parametrize("kind", TYPES)
def test_every_severity_changes_the_image_and_is_repeatable(kind):
    for severity in range(1, 6):
        first, again = (corrupt(IMAGE, kind, severity, seed=3) for _ in range(2))
        assert (first.shape, first.dtype) == (IMAGE.shape, np.uint8)
        assert np.array_equal(first, again)
        assert np.abs(first.astype(int) - IMAGE).mean() > 0.1


def test_sixteen_types_by_five_severities():
    assert len(TYPES) == 16
    assert len(set(VARIANTS)) == 80


@pytest.mark.parametrize(
    "kind", ["gaussian_noise", "contrast", "gaussian_blur", "jpeg_compression", "fog", "shot_noise"]
)
def test_severity_five_is_worse_than_one(kind):
    mild, harsh = (np.abs(corrupt(IMAGE, kind, s, seed=0).astype(int) - IMAGE).mean() for s in (1, 5))
    assert harsh > mild


@pytest.mark.parametrize(
    "kind", ["gaussian_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "spatter", "fog", "frost"]
)
def test_random_kinds_depend_on_the_seed(kind):
    assert not np.array_equal(corrupt(IMAGE, kind, 3, seed=0), corrupt(IMAGE, kind, 3, seed=1))


def test_identical_in_another_process_whatever_its_random_state():
    code = """
import zlib, numpy as np
from raycomp.data.corruptions import TYPES, corrupt
from raycomp.data.streetscenes import scene
np.random.seed(99); np.random.random(7)
print(*(zlib.crc32(corrupt(scene(1)[0], kind, 4, seed=8)) for kind in reversed(TYPES)))
"""
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert fresh == [str(zlib.crc32(corrupt(IMAGE, kind, 4, seed=8).tobytes())) for kind in reversed(TYPES)]


def test_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002  the legacy state is what must not change
    for kind in TYPES:
        corrupt(IMAGE, kind, 2, seed=0)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_gaussian_noise_has_the_published_strength():
    """sigma 0.08 of the range at severity 1 (Hendrycks & Dietterich), on mid grey where nothing clips."""
    grey = np.full((256, 256, 3), 128, np.uint8)
    noise = corrupt(grey, "gaussian_noise", 1, seed=0).astype(float) - 128
    assert noise.std() / 255 == pytest.approx(0.08, rel=0.02)


def test_other_image_sizes_work():
    image = np.random.default_rng(0).integers(0, 255, (48, 80, 3)).astype(np.uint8)
    for kind in TYPES:
        assert corrupt(image, kind, 5, seed=0).shape == image.shape


@pytest.mark.parametrize(
    ("kind", "severity", "image", "words"),
    [
        ("gausian_noise", 1, IMAGE, "did you mean 'gaussian_noise'"),
        ("fog", 6, IMAGE, "severity 6 is outside 1 to 5"),
        ("fog", 1, IMAGE[:20], "128x20 is too small"),
    ],
)
def test_bad_requests(kind, severity, image, words):
    with pytest.raises(UserError, match=words):
        corrupt(image, kind, severity, seed=0)
