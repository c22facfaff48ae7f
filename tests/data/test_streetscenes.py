# SPDX-License-Identifier: Apache-2.0
"""The embedded data set: repeatable, complete, and not leaking between splits."""

import subprocess
import sys

import numpy as np
import pytest

from raycomp.data.street_objects import CLASSES, PERSON, POLE, SIGN
from raycomp.data.streetscenes import StreetScenes, scene
from raycomp.errors import UserError


def test_equal_seeds_give_equal_scenes_in_another_process():
    code = (
        "from raycomp.data.streetscenes import scene; import zlib; a, b = scene(5); print(zlib.crc32(a), zlib.crc32(b))"
    )
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    import zlib

    assert fresh == [str(zlib.crc32(part.tobytes())) for part in scene(5)]


def test_a_scene_is_a_128_pixel_image_with_a_class_everywhere():
    image, label = scene(0)
    assert (image.shape, image.dtype) == ((128, 128, 3), np.uint8)
    assert (label.shape, label.dtype) == ((128, 128), np.uint8)
    assert label.max() < len(CLASSES)


def test_all_eleven_classes_occur_and_the_fragile_ones_are_small():
    shares = np.bincount(np.concatenate([scene(i)[1].ravel() for i in range(60)]), minlength=11) / (60 * 128**2)
    assert (shares > 0.005).all()
    assert shares[[POLE, SIGN, PERSON]].max() < 0.1


def test_splits_share_no_scene():
    train, val, test = (StreetScenes(split, 50) for split in ("train", "val", "test"))
    images = [split[i][0].tobytes() for split in (train, val, test) for i in range(50)]
    assert len(set(images)) == 150


def test_unknown_split_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'train'"):
        StreetScenes("trian", 1)
