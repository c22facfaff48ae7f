# SPDX-License-Identifier: Apache-2.0
"""Operations of decoders and their costs in fvcore's convention (REFERENCE 2), without torch.

A multiply-add counts 1, LayerNorm 5 per element, bilinear upsampling 4 per output element, adaptive pooling 1 per
input element; activations, sums and gathers are free. Batch normalisation is folded into convolutions.
"""

from dataclasses import dataclass
from typing import Protocol

from raycomp.shape import Grid, ModelShape, Size

NORM_COST = 5
UPSAMPLE_COST = 4


@dataclass(frozen=True, slots=True)
class Input:
    """Sizes of a decoder's input."""

    shape: ModelShape
    embed: int
    """Width of the encoder's features."""
    image: Size
    """Height and width, pixels."""
    patches: int
    """Patch tokens after the last block; fewer than patches if tokens merged."""

    @classmethod
    def unmerged(cls, shape: ModelShape, embed: int) -> "Input":
        """Return the input without merging, at the image size of the shape."""
        rows, columns = shape.grid()
        return cls(shape, embed, shape.image, rows * columns)

    @property
    def grid(self) -> Grid:
        return self.shape.grid(self.image)

    @property
    def pixels(self) -> Grid:
        """Height and width of the image, padded to full patches."""
        return scaled(self.grid, self.shape.patch)


class Operation(Protocol):
    """One layer, or an operation without parameters."""

    def cost(self, grid: Grid) -> int:
        """Return the multiply-adds on a grid of rows x columns; by default the grid of the output."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of a decoder."""

    name: str
    """Name of its module in the head; empty without parameters."""
    operation: Operation
    grid: Grid
    """Grid that the cost is counted on; tokens are a grid of one column."""
    reads: bool = False
    """Whether it reads the encoder's features, so that its input channels follow the embedding width."""

    @property
    def cost(self) -> int:
        return self.operation.cost(self.grid)


@dataclass(frozen=True, slots=True)
class Linear:
    """Linear map of every token."""

    inputs: int
    outputs: int
    bias: bool = True

    def cost(self, grid: Grid) -> int:
        return _cells(grid) * self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class Conv:
    """Convolution with a bias, padded so that stride 1 keeps the grid."""

    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1

    def cost(self, grid: Grid) -> int:
        return _cells(grid) * self.inputs // self.groups * self.outputs * self.kernel**2


@dataclass(frozen=True, slots=True)
class ConvTranspose:
    """Transposed convolution with a bias and with kernel = stride, so each output cell reads one input cell."""

    inputs: int
    outputs: int
    factor: int

    def cost(self, grid: Grid) -> int:
        return _cells(grid) * self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class ChannelNorm:
    """LayerNorm over the channels of each grid cell."""

    channels: int

    def cost(self, grid: Grid) -> int:
        return NORM_COST * _cells(grid) * self.channels


@dataclass(frozen=True, slots=True)
class Norm:
    """LayerNorm of every token."""

    width: int

    def cost(self, grid: Grid) -> int:
        return NORM_COST * _cells(grid) * self.width


@dataclass(frozen=True, slots=True)
class Attention:
    """Self-attention of tokens, with its LayerNorm."""

    embed: int
    heads: int
    qk: int
    v: int

    def cost(self, grid: Grid) -> int:
        return attention_cost(_cells(grid), self.embed, self.heads, self.qk, self.v)


@dataclass(frozen=True, slots=True)
class Mlp:
    """LayerNorm and two linear maps of every token."""

    embed: int
    hidden: int

    def cost(self, grid: Grid) -> int:
        return mlp_cost(_cells(grid), self.embed, self.hidden)


@dataclass(frozen=True, slots=True)
class Upsample:
    """Bilinear resizing."""

    channels: int

    def cost(self, grid: Grid) -> int:
        return UPSAMPLE_COST * _cells(grid) * self.channels


@dataclass(frozen=True, slots=True)
class Pool:
    """Adaptive average pooling; the grid is that of the input."""

    channels: int

    def cost(self, grid: Grid) -> int:
        return _cells(grid) * self.channels


@dataclass(frozen=True, slots=True)
class Product:
    """Matrix product: each grid cell multiplies a vector of `inner` numbers by `outer` others."""

    inner: int
    outer: int

    def cost(self, grid: Grid) -> int:
        return _cells(grid) * self.inner * self.outer


def attention_cost(n: int, embed: int, heads: int, qk: int, v: int, qk_norm: bool = False) -> int:
    """Count LayerNorm, qkv, norms of queries and keys, both products and the output projection for n tokens.

    Without heads there is no attention, and no LayerNorm. Arrays of integers give an array of costs.
    """
    norm = (heads > 0) * NORM_COST * n * embed + (2 * (NORM_COST - 1) * n * heads * qk if qk_norm else 0)  # no weights
    return norm + n * embed * heads * (2 * qk + v) + n * n * heads * (qk + v) + n * heads * v * embed


def mlp_cost(n: int, embed: int, hidden: int, gated: bool = False) -> int:
    """Count LayerNorm and two linear maps, or three if gated, for n tokens; 0 without hidden channels.

    Arrays of integers give an array of costs.
    """
    return (hidden > 0) * n * embed * (NORM_COST + (3 if gated else 2) * hidden)


def scaled(grid: Grid, factor: int) -> Grid:
    """Return a grid enlarged by a factor."""
    return grid[0] * factor, grid[1] * factor


def to_pixels(spec: Input, scores: Grid) -> tuple[Step, ...]:
    """Return the step that upsamples class scores to pixels; none if their grid is already that of the pixels."""
    if scores == spec.pixels:
        return ()
    return (Step("", Upsample(spec.shape.classes), spec.pixels),)


def _cells(grid: Grid) -> int:
    return grid[0] * grid[1]
