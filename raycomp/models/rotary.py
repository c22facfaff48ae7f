# SPDX-License-Identifier: Apache-2.0
"""Rotary position on the patch grid: queries and keys rotate by angles that depend on the position of their token.

Su et al., "RoFormer", 2021, for two axes as in Siméoni et al., "DINOv3", 2025: y and x run from -1 to 1 over the
image; half of a head's pairs rotate with y and half with x. Special tokens are at (0, 0), where nothing rotates. A
merged token is at the mean position of its patches.

Legend: B batch, N tokens, H heads, D pairs of a dense head.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from raycomp.shape import ModelShape


@dataclass(frozen=True)
class Rotation:
    """Rotates queries and keys by the positions of their tokens."""

    shape: ModelShape
    places: Tensor
    """(B or 1, N, 2) float32, y and x of every token."""

    def rotated(self, query: Tensor, key: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Rotate queries and keys (B, H, N, width); units j and j + width/2 of a head are a pair.

        Args:
            pairs: (H, width/2) int64, index of each pair in the dense head.
        """
        speed = frequencies(self.shape, query.device)[pairs]  # (H, width/2, 2)
        y, x = self.places[:, None, :, None, 0], self.places[:, None, :, None, 1]
        angle = y * speed[:, None, :, 0] + x * speed[:, None, :, 1]  # (B or 1, H, N, width/2)
        cos, sin = angle.cos().to(query.dtype), angle.sin().to(query.dtype)
        return _rotated(query, cos, sin), _rotated(key, cos, sin)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def frequencies(shape: ModelShape, device: torch.device) -> Tensor:
    """Return radians per unit of y and of x for each pair of a dense head: (D, 2) float32."""
    quarter = shape.head_dim // 4
    exponents = torch.arange(quarter, dtype=torch.float32, device=device) / quarter
    speed, zero = 2 * math.pi * shape.rope_base**-exponents, torch.zeros(quarter, device=device)
    return torch.cat([torch.stack([speed, zero], dim=1), torch.stack([zero, speed], dim=1)])
