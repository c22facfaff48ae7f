# SPDX-License-Identifier: Apache-2.0
"""Steps of DPT: taps brought to four resolutions by learned convolutions, and fused from the coarsest on.

Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021.
"""

from raycomp.decoders.operations import Conv, ConvTranspose, Input, Linear, Step, Upsample, scaled, to_pixels
from raycomp.shape import LEVELS, Grid


def levels(grid: Grid) -> tuple[Grid, ...]:
    """Return the grids of the four levels, 4, 2, 1 and 0.5 times the grid of patches, rounded up."""
    return scaled(grid, 4), scaled(grid, 2), grid, (-(-grid[0] // 2), -(-grid[1] // 2))


def steps(given: Input) -> tuple[Step, ...]:
    """Return the steps on the grid of patches; scores have 8 places along each side of a patch, or 16 if doubled.

    On an odd grid the coarsest level is rounded up, and so are all fused features and the scores.
    """
    shape, C, grids = given.shape, given.shape.decoder_width, levels(given.grid)
    found: list[Step] = []
    for tap, (width, grid) in enumerate(zip(shape.level_widths, grids, strict=True)):
        found += _reassembled(given, tap, width, grid)
        found.append(Step(f"convs.{tap}", Conv(width, C, 3), grid))
    grid = grids[-1]
    for index in range(LEVELS):
        if index:
            if grids[-1 - index] != grid:
                found.append(Step("", Upsample(C), grid))
            found += [Step(f"fusion.{index}.unit1.conv{n}", Conv(C, C, 3), grid) for n in (1, 2)]
        found += [Step(f"fusion.{index}.unit2.conv{n}", Conv(C, C, 3), grid) for n in (1, 2)]
        grid = scaled(grid, 2)
        found += [Step("", Upsample(C), grid), Step(f"fusion.{index}.project", Conv(C, C), grid)]
    found += [Step("project", Conv(C, C, 3), grid), Step("classifier", Conv(C, shape.classes), grid)]
    if shape.double_scores:
        grid = scaled(grid, 2)
        found.append(Step("", Upsample(shape.classes), grid))
    return (*found, *to_pixels(given, grid))


def _reassembled(given: Input, tap: int, width: int, grid: Grid) -> list[Step]:
    """Return the steps that bring a tap to its level: readout of the CLS token, projection, change of resolution."""
    shape, found = given.shape, []
    projects = shape.readout == "project"
    if projects:
        found.append(Step(f"readout.{tap}.patch", Linear(given.embed, shape.width), given.grid, reads=True))
        found.append(Step(f"readout.{tap}.cls", Linear(given.embed, shape.width, bias=False), (1, 1), reads=True))
    inputs = shape.width if projects else given.embed
    found.append(Step(f"reassemble.{tap}.project", Conv(inputs, width), given.grid, reads=not projects))
    match tap:
        case 0 | 1:
            found.append(Step(f"reassemble.{tap}.resize", ConvTranspose(width, width, 4 // 2**tap), grid))
        case 3:
            found.append(Step(f"reassemble.{tap}.resize", Conv(width, width, 3, stride=2), grid))
    return found
