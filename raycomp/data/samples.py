# SPDX-License-Identifier: Apache-2.0
"""Interface of all data sets: images and labels of one split, by index."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from raycomp.errors import UserError

IGNORE = 255  # unlabelled: neither trained on nor measured

Sample = tuple[np.ndarray, np.ndarray]  # HxWx3 uint8 RGB, HxW uint8


class Samples(Protocol):
    """Images with a label at every pixel."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes, in the order of their indices."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash that changes whenever an image or label of the split may have changed."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Return image and label; raises UserError if a file cannot be read."""
        ...


def nothing_labelled(split: str, count: int) -> UserError:
    """Build the error for an evaluation split without labels, for example the test split of Cityscapes."""
    return UserError(f"data.eval_split {split}: no pixel is labelled in any of the {count} images to measure on")


@dataclass(frozen=True)
class Mean:
    """Pixel normalisation of a model: (image / 255 - mean) / std."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


NORMALIZATIONS = {
    "vit": Mean((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "deit": Mean((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": Mean((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
