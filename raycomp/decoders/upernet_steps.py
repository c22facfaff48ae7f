# SPDX-License-Identifier: Apache-2.0
"""Steps of UperNet on a plain ViT: four resolutions by interpolation, pyramid pooling, and a feature pyramid.

Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018; the resolutions as in mmsegmentation's
MultiLevelNeck.
"""

from raycomp.decoders.operations import Conv, Elementwise, Input, Pool, Step, Upsample, scaled, to_pixels
from raycomp.errors import UserError
from raycomp.shape import LEVELS, Grid

BINS = (1, 2, 3, 6)
"""Grid sides that the coarsest level is pooled to."""


def levels(grid: Grid) -> tuple[Grid, ...]:
    """Return the grids of the four levels, 4, 2, 1 and 0.5 times the grid of patches, rounded down.

    Raises:
        UserError: if the grid is too small to be halved.
    """
    if min(grid) < 2:
        raise UserError(f"decoder upernet halves the grid of patches, {grid[0]}x{grid[1]}; expected at least 2x2")
    return scaled(grid, 4), scaled(grid, 2), grid, (grid[0] // 2, grid[1] // 2)


def steps(spec: Input) -> tuple[Step, ...]:
    """Return the steps; there are 4x4 scores per patch."""
    shape, grids, C = spec.shape, levels(spec.grid), spec.shape.decoder_width
    widths, taps, fine, coarse = shape.level_widths, len(shape.tapped), grids[0], grids[-1]
    result = [
        Step(f"neck.lateral.{tap}", Conv(spec.embed, widths[tap]), spec.grid, reads=True, kept=True)
        for tap in range(taps)
    ]
    for level, (width, grid) in enumerate(zip(widths, grids, strict=True)):
        if grid != spec.grid:
            result.append(Step("", Upsample(width), grid))
        result.append(Step(f"neck.convs.{level}", Conv(width, width, 3), grid, kept=True))
    for index, bins in enumerate(BINS):
        result.append(Step("", Pool(widths[-1]), coarse))
        result.append(Step(f"pool.{index}", Conv(widths[-1], C), (bins, bins)))
        result.append(Step("", Upsample(C), coarse, kept=True))
    result.append(Step("", Elementwise(widths[-1] + len(BINS) * C), coarse))  # one tensor of all
    result.append(Step("bottleneck", Conv(widths[-1] + len(BINS) * C, C, 3), coarse))
    for level, grid in enumerate(grids[:-1]):
        result.append(Step(f"lateral.{level}", Conv(widths[level], C), grid))
        result.append(Step("", Upsample(C), grid))  # from the next coarser level
        result.append(Step(f"pyramid.{level}", Conv(C, C, 3), grid, kept=True))
    result += [Step("", Upsample(C), fine, kept=True)] * (LEVELS - 1)
    result.append(Step("", Elementwise(LEVELS * C), fine))
    result.append(Step("fusion", Conv(LEVELS * C, C, 3), fine))
    result.append(Step("classifier", Conv(C, shape.classes), fine))
    return (*result, *to_pixels(spec, fine))
