# SPDX-License-Identifier: Apache-2.0
"""Positions of an encoder: learned rows on a grid, or rotary periods (Simeoni et al., "DINOv3", 2025).

Legend: E width, d head width, P special tokens, N patches.
"""

import math
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from raycomp.errors import UserError
from raycomp.models._timm import resample_abs_pos_embed
from raycomp.models.readers.ledger import Ledger
from raycomp.models.readers.source import Facts, Given
from raycomp.shape import Grid, Size


@dataclass(frozen=True, slots=True)
class Special:
    """Special tokens of an encoder."""

    prefix: int
    """CLS, DIST and registers."""
    registers: int


def rotary(ledger: Ledger, head_dim: int, facts: Facts, given: Given) -> tuple[Tensor, Size]:
    """Return frequencies (d/2, 2), radians per unit of y and x, and the size of the input.

    Raises:
        UserError: if the periods do not fit the heads, or no size is stated.
    """
    image = given.image or facts.image
    if image is None:
        raise UserError(f"{ledger.path}: rotary positions are for any size; give --image HxW, the model's input")
    if head_dim % 4:
        raise UserError(f"{ledger.path}: rotary positions need heads of a width divisible by 4, not {head_dim}")
    quarter, periods = head_dim // 4, ledger.get("rope.periods")
    if periods is None:
        base = facts.rope_base or 0.0
        periods = torch.tensor([base ** (j / quarter) for j in range(quarter)], dtype=torch.float64)
    if tuple(periods.shape) != (quarter,):
        raise UserError(f"{ledger.path}: {list(periods.shape)} rotary periods; expected [{quarter}]")
    ledger.fold("rotary periods are frequencies of each block")
    freqs = torch.zeros(2 * quarter, 2, dtype=torch.float64)
    freqs[:quarter, 0] = freqs[quarter:, 1] = 2 * math.pi / periods.double()
    return freqs.float(), image


def learned(ledger: Ledger, special: Special, side: tuple[int, int], facts: Facts, given: Given) -> tuple[Tensor, Size]:
    """Return positions (1, P + N, E), zero for special tokens that have none, and the size they are for, pixels.

    Args:
        side: Embedding width, and side of a patch in pixels.

    Raises:
        UserError: if there are none, or if they fit no grid.
    """
    path, prefix, (width, patch) = ledger.path, special.prefix, side
    rows = ledger.take("pos_embed")
    count = rows.shape[1] if rows.ndim == 3 and rows.shape[::2] == (1, width) else 0
    grid: Grid | None = None
    placed = prefix
    for placed in dict.fromkeys((prefix, prefix - special.registers, 0)):
        if grid := _grid(count - placed, patch, facts, given):
            break
    if grid is None:
        stated = facts.image if facts.image_certain else None
        square = f"the grid of {stated[0]}x{stated[1]} pixels" if stated else "a square"
        raise UserError(
            f"{path}: tensor 'pos_embed' has shape {list(rows.shape)}; expected [1, {prefix} + {square}, {width}]"
            + ("" if stated else ", or the grid of --image HxW")
        )
    rows = rows[0]
    if placed < prefix:
        ledger.fold("special tokens without a position get zero")
        rows = torch.cat([rows[:placed], rows.new_zeros(prefix - placed, rows.shape[1]), rows[placed:]])
    return rows[None], (grid[0] * patch, grid[1] * patch)


def _grid(patches: int, patch: int, facts: Facts, given: Given) -> Grid | None:
    """Return rows and columns of so many patches: as stated, else a square."""

    def of(image: Size | None) -> Grid | None:
        return (image[0] // patch, image[1] // patch) if image else None

    stated = of(facts.image)
    if stated is not None and stated[0] * stated[1] == patches:
        return stated
    if patches < 1 or (stated is not None and facts.image_certain):
        return None
    if isqrt(patches) ** 2 == patches:
        return isqrt(patches), isqrt(patches)
    by_user = of(given.image)
    return by_user if by_user is not None and by_user[0] * by_user[1] == patches else None


def resampled(positions: Tensor, prefix: int, grid: Grid, wanted: Grid) -> Tensor:
    """Resample positions (1, P + N, E) bilinearly from one grid of patches to another."""
    if grid == wanted:
        return positions
    return resample_abs_pos_embed(
        positions, list(wanted), list(grid), prefix, interpolation="bilinear", antialias=False
    )
