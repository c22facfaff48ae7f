# SPDX-License-Identifier: Apache-2.0
"""Segmentation heads by the name of a shape's decoder."""

from collections.abc import Callable

from raycomp.models.heads.base import Head
from raycomp.models.heads.linear import LinearHead
from raycomp.models.heads.mask import MaskHead
from raycomp.shape import ModelShape

HEADS: dict[str, Callable[[ModelShape, int], Head]] = {"linear": LinearHead, "mask": MaskHead}


def build_head(shape: ModelShape, embed: int) -> Head:
    """Build the head of a shape for encoder features of width `embed`."""
    return HEADS[shape.decoder](shape, embed)
