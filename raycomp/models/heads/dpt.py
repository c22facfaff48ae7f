# SPDX-License-Identifier: Apache-2.0
"""DPT: learned convolutions resample taps to four resolutions, which are fused from coarse to fine.

Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021, as in mmsegmentation's DPTHead and transformers'
DPTForSemanticSegmentation, which also doubles the scores (`double_scores`).

Tensors, each with `.weight` and `.bias` except where noted, batch normalisation folded in and a missing bias zero;
W_i = `tap_widths`, D = dense width, C = `decoder_width`, i = 0 to 3:

| ours | shape | mmsegmentation, `decode_head.` | transformers |
|---|---|---|---|
| `readout.i.patch` | (D, E) | first E columns of `reassemble_blocks.readout_projects.i.0` | `neck.reassemble_stage.readout_projects.i.0` |
| `readout.i.cls`, no bias | (D, E) | the other columns | the other columns |
| `reassemble.i.project` | (W_i, E or D, 1, 1) | `reassemble_blocks.projects.i.conv` | `neck.reassemble_stage.layers.i.projection` |
| `reassemble.i.resize`, i = 0, 1, 3 | (W_i, W_i, 4, 2 or 3) | `reassemble_blocks.resize_layers.i` | `neck.reassemble_stage.layers.i.resize` |
| `convs.i` | (C, W_i, 3, 3) | `convs.i.conv` | `neck.convs.i` |
| `fusion.j.unit1.conv1`, `.conv2`, j = 1 to 3 | (C, C, 3, 3) | `fusion_blocks.j.res_conv_unit1` | `neck.fusion_stage.layers.j.residual_layer1` |
| `fusion.j.unit2.conv1`, `.conv2`, j = 0 to 3 | (C, C, 3, 3) | `fusion_blocks.j.res_conv_unit2` | `neck.fusion_stage.layers.j.residual_layer2` |
| `fusion.j.project` | (C, C, 1, 1) | `fusion_blocks.j.project.conv` | `neck.fusion_stage.layers.j.projection` |
| `project` | (C, C, 3, 3) | `project` | `head.head.0` and `.1` |
| `classifier` | (K, C, 1, 1) | `conv_seg` | `head.head.4` |

Fusion 0 reads the coarsest level. Only `readout: project` has the readout tensors.

Legend: B batch, P special tokens, E embedding width, K classes, h w grid.
"""  # noqa: E501  a table

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from raycomp.decoders.dpt_steps import steps
from raycomp.decoders.operations import Input
from raycomp.models.heads.head import GridHead, resized
from raycomp.shape import ModelShape


class DptHead(GridHead):
    """Reassembled taps, fused from the coarsest to the finest."""

    def __init__(self, shape: ModelShape, embed: int) -> None:
        super().__init__(shape)
        self.readout_type, self.double_scores = shape.readout, shape.double_scores
        self.build(steps(Input.unmerged(shape, embed)))

    def forward(self, taps: Sequence[Tensor], special: Sequence[Tensor]) -> Tensor:
        """Map four taps (B, E, h, w) and their special tokens (B, P, E), of which the first is CLS, to class scores.

        Returns:
            (B, K, 8*h, 8*w), 16 times if doubled; on odd grids as if h and w were rounded up to even numbers.
        """
        levels = [self._level(index, *each) for index, each in enumerate(zip(taps, special, strict=True))]
        x: Tensor | None = None
        for index, level in enumerate(reversed(levels)):
            if x is None:
                x = level
            else:
                level = level if level.shape == x.shape else resized(level, x.shape[-2:])
                x = x + self._unit(f"fusion.{index}.unit1", level)
            x = _doubled(self._unit(f"fusion.{index}.unit2", x))
            x = self.layer(f"fusion.{index}.project", x)
        assert x is not None
        scores = self.layer("classifier", F.relu(self.layer("project", x)))
        return _doubled(scores) if self.double_scores else scores

    def _level(self, index: int, x: Tensor, special: Tensor) -> Tensor:
        """Resample a tap (B, E, h, w) to its level (B, C, rows, columns)."""
        if self.readout_type != "ignore":
            tokens, cls = x.flatten(2).transpose(1, 2), special[:, :1]
            if self.readout_type == "project":
                tokens = self.layer(f"readout.{index}.patch", tokens) + self.layer(f"readout.{index}.cls", cls)
                tokens = F.gelu(tokens)
            else:
                tokens = tokens + cls
            x = tokens.transpose(1, 2).unflatten(2, x.shape[-2:])
        x = self.layer(f"reassemble.{index}.project", x)
        if index != 2:
            x = self.layer(f"reassemble.{index}.resize", x)
        return self.layer(f"convs.{index}", x)

    def _unit(self, name: str, x: Tensor) -> Tensor:
        """Add two convolutions, each after a ReLU, to their input (He et al., "Identity Mappings", ECCV 2016)."""
        return x + self.layer(f"{name}.conv2", F.relu(self.layer(f"{name}.conv1", F.relu(x))))


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
