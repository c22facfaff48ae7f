# SPDX-License-Identifier: Apache-2.0
"""Steps of SETR's progressive upsampling: four times a convolution and an enlargement by 2.

Zheng et al., "Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers", CVPR 2021.
"""

from raycomp.decoders.operations import Conv, Input, Step, Upsample, scaled, to_pixels

TIMES = 4


def steps(given: Input) -> tuple[Step, ...]:
    """Return the steps on the grid of patches; scores have 16 places along each side of a patch."""
    inputs, width, grid = given.embed, given.shape.decoder_width, given.grid
    found = []
    for index in range(TIMES):
        found.append(Step(f"convs.{index}", Conv(inputs, width, 3), grid, reads=index == 0))
        inputs, grid = width, scaled(grid, 2)
        found.append(Step("", Upsample(width), grid))
    return (*found, Step("classifier", Conv(width, given.shape.classes), grid), *to_pixels(given, grid))
