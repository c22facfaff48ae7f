# SPDX-License-Identifier: Apache-2.0
"""Steps of DPT: learned convolutions resample taps to four resolutions, which are fused from coarse to fine.

Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021.
"""

from raycomp.decoders.operations import Conv, ConvTranspose, Input, Linear, Step, Upsample, scaled, to_pixels
from raycomp.shape import LEVELS, Grid


def levels(grid: Grid) -> tuple[Grid, ...]:
    """Return the grids of the four levels, 4, 2, 1 and 0.5 times the grid of patches, rounded up."""
    return scaled(grid, 4), scaled(grid, 2), grid, (-(-grid[0] // 2), -(-grid[1] // 2))


def steps(spec: Input) -> tuple[Step, ...]:
    """Return the steps; there are 8x8 scores per patch, or 16x16 if doubled.

    On an odd grid the sizes of the coarsest level, of all fused features and of the scores are rounded up.
    """
    shape, C, grids = spec.shape, spec.shape.decoder_width, levels(spec.grid)
    result: list[Step] = []
    for tap, (width, grid) in enumerate(zip(shape.level_widths, grids, strict=True)):
        result += _reassembled(spec, tap, width, grid)
        result.append(Step(f"convs.{tap}", Conv(width, C, 3), grid, kept=True))
    grid = grids[-1]
    for index in range(LEVELS):
        if index:
            if grids[-1 - index] != grid:
                result.append(Step("", Upsample(C), grid))
            result += [Step(f"fusion.{index}.unit1.conv{n}", Conv(C, C, 3), grid) for n in (1, 2)]
        result += [Step(f"fusion.{index}.unit2.conv{n}", Conv(C, C, 3), grid) for n in (1, 2)]
        grid = scaled(grid, 2)
        result += [Step("", Upsample(C), grid), Step(f"fusion.{index}.project", Conv(C, C), grid)]
    result += [Step("project", Conv(C, C, 3), grid), Step("classifier", Conv(C, shape.classes), grid)]
    if shape.double_scores:
        grid = scaled(grid, 2)
        result.append(Step("", Upsample(shape.classes), grid))
    return (*result, *to_pixels(spec, grid))


def _reassembled(spec: Input, tap: int, width: int, grid: Grid) -> list[Step]:
    """Return the steps from a tap to its level: readout of the CLS token, projection, resampling."""
    shape, result = spec.shape, []
    projects = shape.readout == "project"
    if projects:
        result.append(Step(f"readout.{tap}.patch", Linear(spec.embed, shape.width), spec.grid, reads=True))
        result.append(Step(f"readout.{tap}.cls", Linear(spec.embed, shape.width, bias=False), (1, 1), reads=True))
    inputs = shape.width if projects else spec.embed
    result.append(Step(f"reassemble.{tap}.project", Conv(inputs, width), spec.grid, reads=not projects))
    match tap:
        case 0 | 1:
            result.append(Step(f"reassemble.{tap}.resize", ConvTranspose(width, width, 4 // 2**tap), grid))
        case 3:
            result.append(Step(f"reassemble.{tap}.resize", Conv(width, width, 3, stride=2), grid))
    return result
