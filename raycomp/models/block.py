# SPDX-License-Identifier: Apache-2.0
"""A transformer block at any widths, with the traits of a `ModelShape`; parameter names follow timm.

`axes` of a module names the prunable units along each axis of its parameters; see `raycomp.compress.layout`.

Legend: B batch, N tokens, E embedding width, H heads.
"""

from dataclasses import dataclass
from typing import ClassVar, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycomp import kernels
from raycomp.models._timm import Mlp
from raycomp.models.rotary import Rotation
from raycomp.recipe import BlockWidths
from raycomp.shape import Activation, ModelShape

_HALF = (torch.bfloat16, torch.float16)

Axes = tuple[str | None, ...]
"""The units along each axis of a parameter; None is never cut."""


@dataclass(frozen=True, slots=True)
class BlockTraits:
    """Settings that all blocks of a model share; widths may differ."""

    scale: float
    """Factor of the attention logits; pruning does not change it."""
    eps: float
    """LayerNorm epsilon."""
    activation: Activation = "gelu"
    qk_norm: bool = False
    rotary: bool = False

    @classmethod
    def of(cls, shape: ModelShape) -> Self:
        """Return the traits of a model's encoder blocks."""
        rotary = shape.position == "rotary"
        return cls(shape.head_dim**-0.5, shape.norm_eps, shape.activation, shape.qk_norm, rotary)


class Attention(nn.Module):
    """Multi-head self-attention whose QK and V widths may differ; the scale stays that of the dense model."""

    axes: ClassVar[dict[str, Axes]] = {
        "qkv.weight": ("qkv", "embed"),
        "qkv.bias": ("qkv",),
        "proj.weight": ("embed", "v"),
        "proj.bias": ("embed",),
        "pairs": ("pair",),
    }

    def __init__(self, embed: int, heads: int, qk: int, v: int, traits: BlockTraits) -> None:
        super().__init__()
        self.heads, self.qk, self.v, self.scale, self.dropout = heads, qk, v, traits.scale, 0.0
        self.qkv = nn.Linear(embed, heads * (2 * qk + v))
        self.q_norm = HeadNorm(heads, qk, traits.eps) if traits.qk_norm else None
        self.k_norm = HeadNorm(heads, qk, traits.eps) if traits.qk_norm else None
        if traits.rotary:  # index of each pair of units in the dense head
            self.register_buffer("pairs", torch.arange(qk // 2).repeat(heads))
        self.proj = nn.Linear(heads * v, embed)

    def forward(
        self, x: Tensor, log_size: Tensor | None = None, rotation: Rotation | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attend over x (B, N, E); log_size (B, N) is added to each key's logit (ToMe, eq. 1).

        Returns:
            The output (B, N, E) and the keys (B, H, N, qk), before any rotation.
        """
        B, N, _ = x.shape
        H, qk, v = self.heads, self.qk, self.v
        query, key, value = (
            part.view(B, N, H, -1).transpose(1, 2) for part in self.qkv(x).split((H * qk, H * qk, H * v), dim=-1)
        )  # (B, H, N, qk), (B, H, N, qk), (B, H, N, v)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        keys = key
        if rotation is not None:
            query, key = rotation.rotated(query, key, cast("Tensor", self.pairs).view(H, -1))
        dropout = self.dropout if self.training else 0.0
        wide = max(qk, v)
        fits = query.dtype in _HALF and wide <= 128 and not dropout
        if fits and kernels.usable(query, key, value):
            from raycomp.kernels import attention

            return self.proj(attention.attend(query, key, value, log_size, self.scale)), keys
        bias = None if log_size is None else log_size.to(query.dtype)[:, None, None, :]
        # Torch's fused kernels need equal head widths. Padding the narrower side with zeros does not change the result.
        out = F.scaled_dot_product_attention(
            _padded(query, wide), _padded(key, wide), _padded(value, wide), bias, dropout, scale=self.scale
        )
        out = self.proj(out[..., :v].transpose(1, 2).reshape(B, N, H * v))
        return F.dropout(out, dropout, self.training), keys


def _padded(x: Tensor, width: int) -> Tensor:
    return x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]))


class HeadNorm(nn.Module):
    """LayerNorm over the width of each head; heads have separate weights, because each keeps its own units."""

    axes: ClassVar[dict[str, Axes]] = {"weight": ("qk",), "bias": ("qk",)}

    def __init__(self, heads: int, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(heads * width)), nn.Parameter(torch.zeros(heads * width))
        self.heads, self.eps = heads, eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise queries or keys (B, H, N, width)."""
        weight, bias = (part.view(self.heads, 1, -1) for part in (self.weight, self.bias))
        return F.layer_norm(x, x.shape[-1:], eps=self.eps) * weight + bias


class GatedMlp(nn.Module):
    """SwiGLU: silu(gate) * value; the rows of `fc1` are those of the gate, then those of the value."""

    axes: ClassVar[dict[str, Axes]] = {
        "fc1.weight": ("gated", "embed"),
        "fc1.bias": ("gated",),
        "fc2.weight": ("embed", "mlp"),
        "fc2.bias": ("embed",),
    }

    def __init__(self, embed: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(embed, 2 * hidden), nn.Linear(hidden, embed)
        self.drop1, self.drop2 = nn.Dropout(0.0), nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, E) to (B, N, E)."""
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.drop2(self.fc2(self.drop1(F.silu(gate) * value)))


class PlainMlp(Mlp):
    """timm's MLP with the prunable units of its parameters."""

    axes: ClassVar[dict[str, Axes]] = {
        "fc1.weight": ("mlp", "embed"),
        "fc1.bias": ("mlp",),
        "fc2.weight": ("embed", "mlp"),
        "fc2.bias": ("embed",),
    }


class QuickGELU(nn.Module):
    """Sigmoid approximation of GELU, as in CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        """Activate each element."""
        return x * torch.sigmoid(1.702 * x)


class TanhGELU(nn.GELU):
    """Tanh approximation of GELU."""

    def __init__(self) -> None:
        super().__init__(approximate="tanh")


def _mlp(embed: int, hidden: int, activation: Activation) -> GatedMlp | PlainMlp:
    match activation:
        case "swiglu":
            return GatedMlp(embed, hidden)
        case "quick_gelu":
            return PlainMlp(embed, hidden, act_layer=QuickGELU)
        case "gelu_tanh":
            return PlainMlp(embed, hidden, act_layer=TanhGELU)
        case "gelu":
            return PlainMlp(embed, hidden)


class Block(nn.Module):
    """A pre-norm transformer block, split in two so that tokens can merge between attention and MLP.

    A half of width 0 is None, and so is its norm: the tokens pass it unchanged.
    """

    axes: ClassVar[dict[str, Axes]] = {
        f"{norm}.{part}": ("embed",) for norm in ("norm1", "norm2") for part in ("weight", "bias")
    }

    def __init__(self, embed: int, widths: BlockWidths, traits: BlockTraits) -> None:
        super().__init__()
        heads, mlp = widths.heads, widths.mlp
        self.norm1 = nn.LayerNorm(embed, eps=traits.eps) if heads else None
        self.attn = Attention(embed, heads, widths.qk, widths.v, traits) if heads else None
        self.norm2 = nn.LayerNorm(embed, eps=traits.eps) if mlp else None
        self.mlp = _mlp(embed, mlp, traits.activation) if mlp else None
        self.drop_path: nn.Module = nn.Identity()

    def set_dropout(self, rate: float) -> None:
        """Set the dropout rate of attention weights and linear outputs in training."""
        if self.attn is not None:
            self.attn.dropout = rate
        if self.mlp is not None:
            self.mlp.drop1.p = self.mlp.drop2.p = rate

    def attend(
        self, x: Tensor, log_size: Tensor | None = None, rotation: Rotation | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the tokens (B, N, E) after attention, and the keys (B, H, N, qk); see `Attention`."""
        if self.attn is None or self.norm1 is None:
            return x, x.new_empty(x.shape[0], 0, x.shape[1], 0)
        out, keys = self.attn(self.norm1(x), log_size, rotation)
        return x + self.drop_path(out), keys

    def feed(self, x: Tensor) -> Tensor:
        """Return the tokens (B, N, E) after the MLP."""
        if self.mlp is None or self.norm2 is None:
            return x
        return x + self.drop_path(self.mlp(self.norm2(x)))
