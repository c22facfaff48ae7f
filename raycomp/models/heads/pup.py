# SPDX-License-Identifier: Apache-2.0
"""SETR's progressive upsampling, as in mmsegmentation's SETRUPHead with 4 convolutions and scale 2.

Zheng et al., "Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers", CVPR 2021.

Tensors, C = `decoder_width`: `convs.i.weight` (C, E or C, 3, 3) and `.bias` for i = 0 to 3, with batch normalisation
folded in; `classifier.weight` (K, C, 1, 1) and `.bias`. In mmsegmentation the head has an input norm and the encoder no
final norm; here that norm is the encoder's final norm.

Legend: B batch, E embedding width, K classes, h w grid.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from raycomp.decoders.operations import Input
from raycomp.decoders.pup_steps import TIMES, steps
from raycomp.models.heads.head import GridHead
from raycomp.shape import ModelShape


class PupHead(GridHead):
    """Convolution, ReLU and 2x upsampling, four times."""

    def __init__(self, shape: ModelShape, embed: int) -> None:
        super().__init__(shape)
        self.build(steps(Input.unmerged(shape, embed)))

    def forward(self, taps: Sequence[Tensor], special: Sequence[Tensor]) -> Tensor:
        """Map the only tap (B, E, h, w) to class scores (B, K, 16*h, 16*w)."""
        del special
        [x] = taps
        for index in range(TIMES):
            x = F.interpolate(F.relu(self.layer(f"convs.{index}", x)), scale_factor=2, mode="bilinear")
        return self.layer("classifier", x)
