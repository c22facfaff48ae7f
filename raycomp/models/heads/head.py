# SPDX-License-Identifier: Apache-2.0
"""Base classes of segmentation heads, and the modules of their steps.

A head is built from the same steps in `raycomp.decoders` that its cost is counted from, so that both agree.

Legend: B batch, N tokens, P special tokens, E embedding width, K classes, h w grid.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from raycomp.decoders.operations import ChannelNorm, Conv, ConvTranspose, Linear, Operation, Step
from raycomp.models.block import Axes
from raycomp.models.pixels import Bilinear, Form
from raycomp.shape import ModelShape


class Head(nn.Module, ABC):
    """Maps the encoder's features to scores; `form` says how scores become logits."""

    axes: dict[str, Axes]
    """The units along each axis of every parameter; see `raycomp.compress.layout`."""
    form: Form

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.axes, self.form = {}, Bilinear(shape.patch)

    def build(self, steps: Sequence[Step]) -> None:
        """Add a module for each step under its dotted name, and declare the axes of its parameters."""
        for step in steps:
            module = _module(step.operation)
            if module is None:
                continue
            *parents, last = step.name.split(".")
            parent: nn.Module = self
            for name in parents:
                if not hasattr(parent, name):
                    parent.add_module(name, nn.Module())
                parent = parent.get_submodule(name)
            parent.add_module(last, module)
            for name, parameter in module.named_parameters():
                units: list[str | None] = [None] * parameter.dim()
                if step.reads and parameter.dim() > 1:
                    units[0 if isinstance(module, nn.ConvTranspose2d) else 1] = "embed"
                self.axes[f"{step.name}.{name}"] = tuple(units)

    def layer(self, name: str, x: Tensor) -> Tensor:
        """Apply the module of the step with this name."""
        return self.get_submodule(name)(x)

    def set_dropout(self, rate: float) -> None:
        """Set the dropout rate in training; only the mask transformer has dropout."""
        del rate


class TokenHead(Head):
    """A head that reads the tokens that remain after merging; the caller restores their scores to the grid."""

    @abstractmethod
    def forward(self, patches: Tensor) -> Tensor:
        """Map patches (B, N, E) to class scores (B, N, K)."""


class GridHead(Head):
    """A head that reads features on the patch grid, where merged tokens are repeated."""

    @abstractmethod
    def forward(self, taps: Sequence[Tensor], special: Sequence[Tensor]) -> Tensor:
        """Map features to scores.

        Args:
            taps: one (B, E, h, w) for each tapped block, ascending.
            special: the special tokens (B, P, E) of each.

        Returns:
            Scores as `form` describes them.
        """


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each grid cell."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise features (B, C, h, w)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize features (B, C, h, w) bilinearly to rows x columns."""
    return F.interpolate(x, tuple(size), mode="bilinear")


def _module(operation: Operation) -> nn.Module | None:
    match operation:
        case Linear(inputs, outputs, bias):
            return nn.Linear(inputs, outputs, bias)
        case Conv(inputs, outputs, kernel, stride, groups):
            return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
        case ConvTranspose(inputs, outputs, factor):
            return nn.ConvTranspose2d(inputs, outputs, factor, factor)
        case ChannelNorm(channels):
            return LayerNorm2d(channels, eps=1e-6)
    return None
