# SPDX-License-Identifier: Apache-2.0
"""EoMT: each query predicts a class, and a mask as its product with upsampled patch features.

Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025, as in transformers'
EomtForUniversalSegmentation without masked attention, which training anneals away.

Tensors, each with `.weight` and `.bias`; D = dense width, i = 0 to n - 1 with 2^n = `mask_factor`:

| ours | shape | transformers | official code |
|---|---|---|---|
| `class_head` | (K + 1, E) | `class_predictor` | `class_head` |
| `mask_head.fc1` | (D, E) | `mask_head.fc1` | `mask_head.0` |
| `mask_head.fc2`, `.fc3` | (D, D) | `mask_head.fc2`, `.fc3` | `mask_head.2`, `.4` |
| `upscale.i.conv` | (E or D, D, 2, 2) | `upscale_block.block.i.conv1` | `upscale.i.conv1` |
| `upscale.i.depthwise` | (D, 1, 3, 3) | `upscale_block.block.i.conv2`, no bias: zero | `upscale.i.conv2` |
| `upscale.i.norm` | (D,) | `upscale_block.block.i.layernorm2d` | `upscale.i.norm` |

The last class is "no object". The encoder has the queries themselves.

Legend: B batch, Q queries, P special tokens, E embedding width, K classes, h w grid.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from raycomp.decoders.eomt_steps import steps
from raycomp.decoders.operations import Input
from raycomp.models.heads.head import GridHead
from raycomp.models.pixels import QueryMasks
from raycomp.shape import ModelShape


class EomtHead(GridHead):
    """A class and a mask for each query."""

    form: QueryMasks

    def __init__(self, shape: ModelShape, embed: int) -> None:
        super().__init__(shape)
        self.queries, self.upscales = shape.queries, shape.mask_factor.bit_length() - 1
        self.form = QueryMasks(shape.patch, shape.mask_factor, shape.classes)
        self.build(steps(Input.unmerged(shape, embed)))

    def forward(self, taps: Sequence[Tensor], special: Sequence[Tensor]) -> Tensor:
        """Map the last patches (B, E, h, w) and special tokens (B, Q + P, E), queries first, to `QueryMasks` scores."""
        [patches], [tokens] = taps, special
        queries = tokens[:, : self.queries]
        masks = F.gelu(self.layer("mask_head.fc1", queries))
        masks = self.layer("mask_head.fc3", F.gelu(self.layer("mask_head.fc2", masks)))  # (B, Q, D)
        for index in range(self.upscales):
            patches = F.gelu(self.layer(f"upscale.{index}.conv", patches))
            patches = self.layer(f"upscale.{index}.norm", self.layer(f"upscale.{index}.depthwise", patches))
        logits = (masks @ patches.flatten(2)).unflatten(2, patches.shape[-2:])  # (B, Q, h', w')
        return self.form.packed(logits, self.layer("class_head", queries))
