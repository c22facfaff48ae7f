# SPDX-License-Identifier: Apache-2.0
"""Steps of UperNet on a plain ViT: four resolutions by interpolation, pyramid pooling, and a feature pyramid.

Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018; the resolutions as in mmsegmentation's
MultiLevelNeck.
"""

from raycomp.decoders.operations import Conv, Input, Pool, Step, Upsample, scaled, to_pixels
from raycomp.errors import UserError
from raycomp.shape import LEVELS, Grid

BINS = (1, 2, 3, 6)
"""Rows and columns that the coarsest level is pooled to."""


def levels(grid: Grid) -> tuple[Grid, ...]:
    """Return the grids of the four levels, 4, 2, 1 and 0.5 times the grid of patches, rounded down.

    Raises:
        UserError: if the grid is too small to be halved.
    """
    if min(grid) < 2:
        raise UserError(f"decoder upernet halves the grid of patches, which is {grid[0]}x{grid[1]}; at least 2x2")
    return scaled(grid, 4), scaled(grid, 2), grid, (grid[0] // 2, grid[1] // 2)


def steps(given: Input) -> tuple[Step, ...]:
    """Return the steps on the grid of patches; scores have 4 places along each side of a patch."""
    shape, grids, C = given.shape, levels(given.grid), given.shape.decoder_width
    widths, taps, fine, coarse = shape.level_widths, len(shape.tapped), grids[0], grids[-1]
    found = [Step(f"neck.lateral.{tap}", Conv(given.embed, widths[tap]), given.grid, reads=True) for tap in range(taps)]
    for level, (width, grid) in enumerate(zip(widths, grids, strict=True)):
        if grid != given.grid:
            found.append(Step("", Upsample(width), grid))
        found.append(Step(f"neck.convs.{level}", Conv(width, width, 3), grid))
    for index, bins in enumerate(BINS):
        found.append(Step("", Pool(widths[-1]), coarse))
        found.append(Step(f"pool.{index}", Conv(widths[-1], C), (bins, bins)))
        found.append(Step("", Upsample(C), coarse))
    found.append(Step("bottleneck", Conv(widths[-1] + len(BINS) * C, C, 3), coarse))
    for level, grid in enumerate(grids[:-1]):
        found.append(Step(f"lateral.{level}", Conv(widths[level], C), grid))
        found.append(Step("", Upsample(C), grid))  # from the next coarser level
        found.append(Step(f"pyramid.{level}", Conv(C, C, 3), grid))
    found += [Step("", Upsample(C), fine)] * (LEVELS - 1)
    found.append(Step("fusion", Conv(LEVELS * C, C, 3), fine))
    found.append(Step("classifier", Conv(C, shape.classes), fine))
    return (*found, *to_pixels(given, fine))
