# SPDX-License-Identifier: Apache-2.0
"""Build the policy networks of CTS; `raycomp.policies` counts their layers and cost."""

import torch
from torch import Tensor, nn

from raycomp.data.samples import IGNORE
from raycomp.models._timm import create_model
from raycomp.policies import check_policy, small_channels


class Policy(nn.Module):
    """Map images (B, 3, H, W) to two logits (B, 2, H/2p, W/2p): several classes, one class."""

    def __init__(self, kind: str, patch: int, pretrained: bool = False) -> None:
        super().__init__()
        check_policy(kind, patch)
        self.kind, self.patch = kind, patch
        if kind == "small":
            self.features: nn.Module = _small(patch)
            width = small_channels(patch)[-1]
        else:
            self.features = create_model(
                "efficientnet_lite0", pretrained=pretrained, features_only=True, out_indices=(4,)
            )
            width = self.features.feature_info.channels()[-1]  # type: ignore[union-attr, operator]
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images)
        return self.head(x if self.kind == "small" else x[-1])


def _small(patch: int) -> nn.Sequential:
    layers, inputs = [], 3
    for outputs in small_channels(patch):
        layers += _convolution(inputs, outputs, 2)
        inputs = outputs
    return nn.Sequential(*layers, *_convolution(inputs, inputs, 1))


def _convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def one_class(labels: Tensor, superpatch: int, ignore_border: bool) -> Tensor:
    """Return the ground truth of a policy, as in CTS: 1 where all pixels of a superpatch share a label, else 0.

    Unlabelled pixels count as a separate class: a superpatch without labels is 1, a partly labelled one is 0.

    Args:
        labels: (B, H, W), sides multiples of `superpatch`.
        ignore_border: set superpatches at the image border to 255 (no ground truth) if their labelled pixels share a
            class and the others are unlabelled: the unlabelled pixels are a frame, not another object (ADE20K).

    Returns:
        (B, H / superpatch, W / superpatch) int64.
    """
    B, height, width = labels.shape
    rows, columns = height // superpatch, width // superpatch
    cells = labels.view(B, rows, superpatch, columns, superpatch).transpose(2, 3).flatten(3)
    low, high = cells.amin(-1), cells.amax(-1)
    truth = (low == high).long()
    if ignore_border:
        highest = torch.where(cells == IGNORE, 0, cells).amax(-1)  # among labelled pixels
        partly = (low != high) & (high == IGNORE) & (low == highest)
        inside = torch.zeros_like(partly)
        inside[:, 1 : rows - 1, 1 : columns - 1] = True
        truth[partly & ~inside] = IGNORE
    return truth
