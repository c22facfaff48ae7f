# SPDX-License-Identifier: Apache-2.0
"""Translate the positions of an encoder: learned rows on a grid, or rotary periods (Simeoni et al., "DINOv3", 2025).

Legend: E width, d head width, P special tokens, N patches.
"""

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from raycomp.errors import UserError
from raycomp.models._timm import resample_abs_pos_embed
from raycomp.models.readers.ledger import Ledger
from raycomp.models.readers.source import DINOV3_ROPE_BASE, Facts, UserFacts
from raycomp.shape import Grid, Size


@dataclass(frozen=True, slots=True)
class Special:
    """Special tokens of an encoder."""

    prefix: int
    """CLS, DIST and registers."""
    registers: int


def rotary(ledger: Ledger, head_dim: int, facts: Facts, user: UserFacts) -> tuple[float, Size]:
    """Return the base of the rotary periods and the input size.

    Raises:
        UserError: if the periods in the file are not powers of one base, or if no size is stated.
    """
    image = facts.image or user.image
    if image is None:
        raise UserError(f"{ledger.path}: rotary positions fit any input size; give --image HxW")
    periods = ledger.get("rope.periods")
    if periods is None:
        return facts.rope_base or DINOV3_ROPE_BASE, image
    quarter = head_dim // 4
    actual = periods.double()
    fitted = float(actual[-1]) ** (quarter / (quarter - 1)) if quarter > 1 else DINOV3_ROPE_BASE
    for base in (DINOV3_ROPE_BASE, fitted):
        expected = base ** (torch.arange(quarter, dtype=torch.float64) / quarter)
        if actual.shape == expected.shape and torch.allclose(actual, expected, rtol=1e-5):
            ledger.fold("rotary periods are powers of one base")
            return base, image
    raise UserError(
        f"{ledger.path}: {len(actual)} rotary periods from {actual.min():.4g} to {actual.max():.4g}; expected "
        f"{quarter} powers of one base, from 1 upwards"
    )


def pairs(heads: int, head_dim: int, depth: int) -> dict[str, Tensor]:
    """Return the rotation pairs of all blocks of a dense model by their names in the encoder."""
    return {f"blocks.{index}.attn.pairs": torch.arange(head_dim // 2).repeat(heads) for index in range(depth)}


def learned(
    ledger: Ledger, special: Special, sizes: tuple[int, int], facts: Facts, user: UserFacts
) -> tuple[Tensor, Size]:
    """Return positions (1, P + N, E), zero for special tokens without one, and their image size in pixels.

    Args:
        sizes: Embedding width, and side of a patch in pixels.

    Raises:
        UserError: if the positions are missing or fit no grid.
    """
    path, prefix, (width, patch) = ledger.path, special.prefix, sizes
    name = ledger.name_in_file("pos_embed")
    rows = ledger.take("pos_embed")
    count = rows.shape[1] if rows.ndim == 3 and rows.shape[::2] == (1, width) else 0
    counts = {"all": prefix, "class": prefix - special.registers, "none": 0}
    possible = [counts[facts.positioned]] if facts.positioned is not None else list(dict.fromkeys(counts.values()))
    grids = [(positioned, grid) for positioned in possible for grid in _grids(count - positioned, patch, facts, user)]
    stated = [(positioned, grid) for positioned, grid in grids if facts.image and grid == _grid(facts.image, patch)]
    positioned, grid = next(iter([*stated, *grids]), (0, None))
    if grid is None:
        size = facts.image if facts.image_certain else None
        square = f"the grid of {size[0]}x{size[1]} pixels" if size else "a square"
        raise UserError(
            f"{path}: tensor {name!r} has shape {list(rows.shape)}; expected [1, {prefix} + {square}, {width}]"
            + ("" if size else ", or the grid of --image HxW")
        )
    rows = rows[0]
    if positioned < prefix:
        ledger.fold("positions of special tokens without one are zero")
        if facts.positioned is None:
            ledger.infer(f"positions for {grid[0]}x{grid[1]} patches, and for {positioned} of {prefix} special tokens")
        rows = torch.cat([rows[:positioned], rows.new_zeros(prefix - positioned, rows.shape[1]), rows[positioned:]])
    return rows[None], (grid[0] * patch, grid[1] * patch)


def _grid(image: Size, patch: int) -> Grid:
    return image[0] // patch, image[1] // patch


def _grids(patches: int, patch: int, facts: Facts, user: UserFacts) -> list[Grid]:
    """Return the possible grids of this many patches: as the file states, square, or as the user states."""
    square = isqrt(max(0, patches))
    certain = facts.image is not None and facts.image_certain
    images = [facts.image] if certain else [facts.image, (square * patch, square * patch), user.image]
    grids = [_grid(image, patch) for image in images if image]
    return [grid for grid in grids if patches > 0 and grid[0] * grid[1] == patches]


def resampled(positions: Tensor, prefix: int, grid: Grid, target: Grid) -> Tensor:
    """Resample positions (1, P + N, E) bilinearly from one grid of patches to another."""
    if grid == target:
        return positions
    return resample_abs_pos_embed(
        positions, list(target), list(grid), prefix, interpolation="bilinear", antialias=False
    )
