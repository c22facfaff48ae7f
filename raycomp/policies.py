# SPDX-License-Identifier: Apache-2.0
"""Layers and cost of the policy networks of CTS; `models.policy` builds them.

`small` is a stack of 3x3 convolutions for small models. `efficientnet_lite0` is the published choice:
the features of EfficientNet-Lite0 (Tan & Le, ICML 2019, without squeeze-excitation, with fixed stem
and head). Both end in a 1x1 convolution to two logits per 2x2 superpatch of ViT patches.
"""

from itertools import pairwise

from raycomp.errors import UserError
from raycomp.shape import Size

_BATCH_NORM = 2  # GFLOPs convention, per element
_LITE0_STRIDE = 32
_LITE0_STEM = 32
# expansion, channels, layers, stride of the first, kernel: the MBConv stages of EfficientNet-B0
_LITE0_STAGES = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
)  # fmt: skip
_SMALL_WIDTHS = (16, 32, 64)


def small_channels(patch: int) -> list[int]:
    """Return the output channels of the small policy's stride-2 convolutions, down to one pixel per superpatch."""
    halvings = (2 * patch).bit_length() - 1
    return [_SMALL_WIDTHS[min(i, len(_SMALL_WIDTHS) - 1)] for i in range(halvings)]


def policy_cost(kind: str, patch: int, image: Size) -> int:
    """Return the multiply-adds of a policy network on one image of height x width pixels.

    Raises:
        UserError: as `check_policy`.
    """
    return _small_cost(patch, image) if kind == "small" else _lite0_cost(patch, image)


def policy_params(kind: str, patch: int) -> int:
    """Return the number of parameters of a policy network; convolutions have a batch normalisation and no bias.

    Raises:
        UserError: as `check_policy`.
    """
    check_policy(kind, patch)
    if kind == "small":
        channels = [3, *small_channels(patch)]
        pairs = [*pairwise(channels), (channels[-1], channels[-1])]
        return sum(outputs * (9 * inputs + 2) for inputs, outputs in pairs) + 2 * (channels[-1] + 1)
    total, inputs = _LITE0_STEM * (9 * 3 + 2), _LITE0_STEM
    for expansion, outputs, layers, _, kernel in _LITE0_STAGES:
        for _ in range(layers):
            wide = expansion * inputs
            total += wide * (inputs + 2) if expansion > 1 else 0
            total += wide * (kernel**2 + 2) + outputs * (wide + 2)
            inputs = outputs
    return total + 2 * (inputs + 1)


def policy_peak(kind: str, image: Size) -> int:
    """Return the most numbers that a policy network holds at a time for one image.

    These are the channels of its widest layer before and after batch normalisation.
    """
    wide = _SMALL_WIDTHS[0] if kind == "small" else _LITE0_STAGES[1][0] * _LITE0_STAGES[0][1]
    return 2 * wide * -(-image[0] // 2) * -(-image[1] // 2)


def check_policy(kind: str, patch: int) -> None:
    """Raise UserError unless the policy gives one answer per superpatch of 2 x 2 patches."""
    if kind == "efficientnet_lite0" and 2 * patch != _LITE0_STRIDE:
        raise UserError(f"policy.kind efficientnet_lite0 needs patches of 16 pixels, not {patch}; use policy small")
    if kind == "small" and patch & (patch - 1):
        raise UserError(f"policy.kind small needs patches of a power of two pixels, not {patch}")


def _small_cost(patch: int, image: Size) -> int:
    check_policy("small", patch)
    (height, width), inputs, cost = image, 3, 0
    for outputs in small_channels(patch):
        height, width = -(-height // 2), -(-width // 2)
        cost += height * width * outputs * (9 * inputs + _BATCH_NORM)
        inputs = outputs
    cost += height * width * inputs * (9 * inputs + _BATCH_NORM)  # the last convolution has stride 1
    return cost + height * width * inputs * 2


def _lite0_cost(patch: int, image: Size) -> int:
    check_policy("efficientnet_lite0", patch)
    height, width = (-(-side // 2) for side in image)
    cost, inputs = height * width * _LITE0_STEM * (9 * 3 + _BATCH_NORM), _LITE0_STEM
    for expansion, outputs, layers, stride, kernel in _LITE0_STAGES:
        for layer in range(layers):
            wide = expansion * inputs
            if expansion > 1:
                cost += height * width * wide * (inputs + _BATCH_NORM)
            if layer == 0 and stride == 2:
                height, width = -(-height // 2), -(-width // 2)
            cost += height * width * wide * (kernel**2 + _BATCH_NORM)  # depthwise
            cost += height * width * outputs * (wide + _BATCH_NORM)
            inputs = outputs
    return cost + height * width * inputs * 2


def check_superpatches(field: str, size: Size, patch: int) -> None:
    """Check that superpatches of 2x2 patches tile the images that a policy is trained or measured on.

    Raises:
        UserError: naming the field, which defaults to `model.shape.image`.
    """
    side = 2 * patch
    if size[0] % side or size[1] % side:
        near = "x".join(str(max(side, round(length / side) * side)) for length in size)
        raise UserError(
            f"{field} is {size[0]}x{size[1]}: superpatches are {side}x{side} pixels; nearest allowed: {near}"
        )
