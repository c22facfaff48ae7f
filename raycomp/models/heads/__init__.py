# SPDX-License-Identifier: Apache-2.0
"""Segmentation heads by decoder name."""

from collections.abc import Callable

from raycomp.models.heads.dpt import DptHead
from raycomp.models.heads.eomt import EomtHead
from raycomp.models.heads.head import Head
from raycomp.models.heads.linear import LinearHead
from raycomp.models.heads.mask import MaskHead
from raycomp.models.heads.pup import PupHead
from raycomp.models.heads.upernet import UperNetHead
from raycomp.shape import ModelShape

HEADS: dict[str, Callable[[ModelShape, int], Head]] = {
    "linear": LinearHead,
    "mask": MaskHead,
    "eomt": EomtHead,
    "dpt": DptHead,
    "upernet": UperNetHead,
    "pup": PupHead,
}


def build_head(shape: ModelShape, embed: int) -> Head:
    """Build the head that a shape names, for encoder features of width `embed`."""
    return HEADS[shape.decoder](shape, embed)
