# SPDX-License-Identifier: Apache-2.0
"""Steps of SETR's progressive upsampling: a convolution and 2x upsampling, four times.

Zheng et al., "Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers", CVPR 2021.
"""

from raycomp.decoders.operations import Conv, Input, Step, Upsample, scaled, to_pixels

TIMES = 4


def steps(spec: Input) -> tuple[Step, ...]:
    """Return the steps; there are 16x16 scores per patch."""
    inputs, width, grid = spec.embed, spec.shape.decoder_width, spec.grid
    result = []
    for index in range(TIMES):
        result.append(Step(f"convs.{index}", Conv(inputs, width, 3), grid, reads=index == 0))
        inputs, grid = width, scaled(grid, 2)
        result.append(Step("", Upsample(width), grid))
    return (*result, Step("classifier", Conv(width, spec.shape.classes), grid), *to_pixels(spec, grid))
