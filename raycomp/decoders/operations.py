# SPDX-License-Identifier: Apache-2.0
"""Operations of decoders: cost in fvcore's convention (REFERENCE 2), parameters and memory, without torch.

A multiply-add counts 1, LayerNorm 5 per element, bilinear upsampling 4 per output element, adaptive pooling 1 per
input element; activations, sums and gathers are free. Batch normalisation is folded into convolutions.
"""

from dataclasses import dataclass
from typing import Protocol

from raycomp.decoders.halves import (
    NORM_COST,
    attention_cost,
    attention_params,
    attention_peak,
    mlp_cost,
    mlp_params,
    mlp_peak,
)
from raycomp.shape import Grid, ModelShape, Size

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

    @property
    def params(self) -> int:
        """Number of parameters."""

    @property
    def width(self) -> int:
        """Numbers that it returns for each cell of the grid."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of a decoder."""

    name: str
    """Name of its module or parameter in the head; empty without parameters."""
    operation: Operation
    grid: Grid
    """Grid that the cost is counted on; tokens are a grid of one column."""
    reads: bool = False
    """Whether it reads the encoder's features, so that its input channels follow the embedding width."""
    kept: bool = False
    """Whether its result is needed after the next step."""

    @property
    def cost(self) -> int:
        return self.operation.cost(self.grid)

    @property
    def params(self) -> int:
        return self.operation.params if self.name else 0

    @property
    def values(self) -> int:
        """Numbers that it returns."""
        return _cells(self.grid) * self.operation.width

    @property
    def peak(self) -> int:
        """Numbers that it holds at most at a time, without its input."""
        match self.operation:
            case Attention(embed, heads, qk, v):
                return _cells(self.grid) * attention_peak(embed, heads, qk, v)
            case Mlp(embed, hidden):
                return _cells(self.grid) * mlp_peak(embed, hidden)
            case Conv(kernel=3):
                return 2 * self.values  # before and after its activation
        return self.values


@dataclass(frozen=True, slots=True)
class Linear:
    """Linear map of every token."""

    inputs: int
    outputs: int
    bias: bool = True

    def cost(self, grid: Grid) -> int:
        return _cells(grid) * self.inputs * self.outputs

    @property
    def params(self) -> int:
        return self.inputs * self.outputs + self.bias * self.outputs

    @property
    def width(self) -> int:
        return self.outputs


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

    @property
    def params(self) -> int:
        return self.outputs * (self.inputs // self.groups * self.kernel**2 + 1)

    @property
    def width(self) -> int:
        return self.outputs


@dataclass(frozen=True, slots=True)
class ConvTranspose:
    """Transposed convolution with a bias and with kernel = stride, so each output cell reads one input cell."""

    inputs: int
    outputs: int
    factor: int

    def cost(self, grid: Grid) -> int:
        return _cells(grid) * self.inputs * self.outputs

    @property
    def params(self) -> int:
        return self.outputs * (self.inputs * self.factor**2 + 1)

    @property
    def width(self) -> int:
        return self.outputs


@dataclass(frozen=True, slots=True)
class ChannelNorm:
    """LayerNorm over the channels of each grid cell."""

    channels: int

    def cost(self, grid: Grid) -> int:
        return NORM_COST * _cells(grid) * self.channels

    @property
    def params(self) -> int:
        return 2 * self.channels

    @property
    def width(self) -> int:
        return self.channels


@dataclass(frozen=True, slots=True)
class Norm:
    """LayerNorm of every token."""

    features: int

    def cost(self, grid: Grid) -> int:
        return NORM_COST * _cells(grid) * self.features

    @property
    def params(self) -> int:
        return 2 * self.features

    @property
    def width(self) -> int:
        return self.features


@dataclass(frozen=True, slots=True)
class Embedding:
    """Learned tokens, one for each cell of the grid."""

    count: int
    features: int

    def cost(self, grid: Grid) -> int:
        del grid
        return 0

    @property
    def params(self) -> int:
        return self.count * self.features

    @property
    def width(self) -> int:
        return self.features


@dataclass(frozen=True, slots=True)
class Attention:
    """Self-attention of tokens, with its LayerNorm."""

    embed: int
    heads: int
    qk: int
    v: int

    def cost(self, grid: Grid) -> int:
        return attention_cost(_cells(grid), self.embed, self.heads, self.qk, self.v)

    @property
    def params(self) -> int:
        return attention_params(self.embed, self.heads, self.qk, self.v)

    @property
    def width(self) -> int:
        return self.embed


@dataclass(frozen=True, slots=True)
class Mlp:
    """LayerNorm and two linear maps of every token."""

    embed: int
    hidden: int

    def cost(self, grid: Grid) -> int:
        return mlp_cost(_cells(grid), self.embed, self.hidden)

    @property
    def params(self) -> int:
        return mlp_params(self.embed, self.hidden)

    @property
    def width(self) -> int:
        return self.embed


@dataclass(frozen=True, slots=True)
class _Weightless:
    channels: int

    @property
    def params(self) -> int:
        return 0

    @property
    def width(self) -> int:
        return self.channels


class Upsample(_Weightless):
    """Bilinear resizing."""

    def cost(self, grid: Grid) -> int:
        return UPSAMPLE_COST * _cells(grid) * self.channels


class Elementwise(_Weightless):
    """A function of each number, or a concatenation; both are free."""

    def cost(self, grid: Grid) -> int:
        del grid
        return 0


class Pool(_Weightless):
    """Adaptive average pooling; the grid is that of the input."""

    def cost(self, grid: Grid) -> int:
        return _cells(grid) * self.channels


@dataclass(frozen=True, slots=True)
class Product:
    """Matrix product: each grid cell multiplies a vector of `inner` numbers by `outer` others, learned if named."""

    inner: int
    outer: int

    def cost(self, grid: Grid) -> int:
        return _cells(grid) * self.inner * self.outer

    @property
    def params(self) -> int:
        return self.inner * self.outer

    @property
    def width(self) -> int:
        return self.outer


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
