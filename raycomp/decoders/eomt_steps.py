# SPDX-License-Identifier: Apache-2.0
"""Steps of EoMT: each query predicts a class, and a mask as its product with upsampled patch features.

Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025.
"""

from raycomp.decoders.operations import (
    ChannelNorm,
    Conv,
    ConvTranspose,
    Elementwise,
    Input,
    Linear,
    Product,
    Step,
    Upsample,
    scaled,
)


def steps(spec: Input) -> tuple[Step, ...]:
    """Return the steps on queries and patches, then those from masks to pixels."""
    shape, embed, E, grid = spec.shape, spec.embed, spec.shape.width, spec.grid
    queries = (shape.queries, 1)
    result = [
        Step("class_head", Linear(embed, shape.classes + 1), queries, reads=True),
        Step("mask_head.fc1", Linear(embed, E), queries, reads=True),
        Step("mask_head.fc2", Linear(E, E), queries),
        Step("mask_head.fc3", Linear(E, E), queries),
    ]
    upscales = shape.mask_factor.bit_length() - 1
    for index in range(upscales):
        grid, first = scaled(grid, 2), index == 0
        result.append(Step(f"upscale.{index}.conv", ConvTranspose(embed if first else E, E, 2), grid, reads=first))
        result.append(Step(f"upscale.{index}.depthwise", Conv(E, E, 3, groups=E), grid))
        result.append(Step(f"upscale.{index}.norm", ChannelNorm(E), grid))
    result.append(Step("", Product(E, shape.queries), grid))
    if grid != spec.pixels:
        result.append(Step("", Upsample(shape.queries), spec.pixels, kept=True))
    result.append(Step("", Elementwise(shape.queries), spec.image))
    return (*result, Step("", Product(shape.queries, shape.classes), spec.image))
