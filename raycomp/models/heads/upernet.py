# SPDX-License-Identifier: Apache-2.0
"""UperNet on a plain ViT, as in mmsegmentation: MultiLevelNeck (4, 2, 1, 0.5) and UPerHead (pooling 1, 2, 3, 6).

Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018. Without the neck, it equals the head
of transformers' UperNetForSemanticSegmentation.

Tensors, each with `.weight` and `.bias`, batch normalisation folded in; W = `tap_widths`, C = `decoder_width`:

| ours | shape | mmsegmentation | transformers |
|---|---|---|---|
| `neck.lateral.i`, one per tap | (W, E, 1, 1) | `neck.lateral_convs.i.conv` | |
| `neck.convs.i`, i = 0 to 3 | (W, W, 3, 3) | `neck.convs.i.conv` | |
| `pool.i`, i = 0 to 3 | (C, W, 1, 1) | `decode_head.psp_modules.i.1` | `psp_modules.i.1` |
| `bottleneck` | (C, W + 4C, 3, 3) | `bottleneck` | `bottleneck` |
| `lateral.i`, i = 0 to 2 | (C, W, 1, 1) | `lateral_convs.i` | `lateral_convs.i` |
| `pyramid.i`, i = 0 to 2 | (C, C, 3, 3) | `fpn_convs.i` | `fpn_convs.i` |
| `fusion` | (C, 4C, 3, 3) | `fpn_bottleneck` | `fpn_bottleneck` |
| `classifier` | (K, C, 1, 1) | `conv_seg` | `classifier` |

Legend: B batch, E embedding width, K classes, h w grid.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from raycomp.decoders.operations import Input
from raycomp.decoders.upernet_steps import BINS, levels, steps
from raycomp.models.heads.head import GridHead, resized
from raycomp.shape import LEVELS, ModelShape

_SCALES = (4.0, 2.0, 1.0, 0.5)


class UperNetHead(GridHead):
    """Four resolutions, pyramid pooling of the coarsest, and a feature pyramid down to the finest."""

    def __init__(self, shape: ModelShape, embed: int) -> None:
        super().__init__(shape)
        self.build(steps(Input.unmerged(shape, embed)))

    def forward(self, taps: Sequence[Tensor], special: Sequence[Tensor]) -> Tensor:
        """Map one or four taps (B, E, h, w) to class scores (B, K, 4*h, 4*w)."""
        del special
        rows, columns = taps[0].shape[-2:]
        levels((rows, columns))  # raises if the grid cannot be halved
        return self.fused(self.resolutions(taps))

    def resolutions(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """Resample taps (B, E, h, w) to the four levels (B, W, rows, columns), finest first."""
        laterals = [self.layer(f"neck.lateral.{index}", tap) for index, tap in enumerate(taps)]
        if len(laterals) == 1:
            laterals *= LEVELS
        outputs = []
        for index, (x, scale) in enumerate(zip(laterals, _SCALES, strict=True)):
            scaled = x if scale == 1 else F.interpolate(x, scale_factor=scale, mode="bilinear")
            outputs.append(self.layer(f"neck.convs.{index}", scaled))
        return outputs

    def fused(self, features: Sequence[Tensor]) -> Tensor:
        """Map the four levels to class scores on the grid of the finest."""
        *finer, coarse = features
        pooled = [coarse]
        for index, bins in enumerate(BINS):
            part = self._active(f"pool.{index}", F.adaptive_avg_pool2d(coarse, bins))
            pooled.append(resized(part, coarse.shape[-2:]))
        x = self._active("bottleneck", torch.cat(pooled, dim=1))
        pyramid = [x]
        for index, level in reversed(list(enumerate(finer))):
            x = self._active(f"lateral.{index}", level) + resized(x, level.shape[-2:])
            pyramid.insert(0, self._active(f"pyramid.{index}", x))
        finest = pyramid[0]
        fused = torch.cat([finest, *(resized(level, finest.shape[-2:]) for level in pyramid[1:])], dim=1)
        return self.layer("classifier", self._active("fusion", fused))

    def _active(self, name: str, x: Tensor) -> Tensor:
        return F.relu(self.layer(name, x))
