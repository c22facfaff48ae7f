# SPDX-License-Identifier: Apache-2.0
"""Dimensions and traits of a dense segmentation model, as needed by GFLOPs counts and recipes.

Strudel et al., "Segmenter: Transformer for Semantic Segmentation", ICCV 2021.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raycomp.errors import UserError

Grid = tuple[int, int]  # rows, columns of patches
Size = tuple[int, int]  # height, width in pixels
Side = Annotated[int, Field(gt=0, le=65536)]
"""Pixels, as read from a file; the limit catches typing errors before a huge model is built."""

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"]

LEVELS = 4
"""Number of feature resolutions inside the decoders dpt and upernet."""
TAPS = {"linear": (1,), "mask": (1,), "eomt": (1,), "dpt": (LEVELS,), "upernet": (1, LEVELS), "pup": (1,)}
"""Numbers of taps that each decoder supports."""

# name -> (width, heads, depth): the four ViT sizes of the Segmenter paper.
BACKBONES = {"tiny": (192, 3, 12), "small": (384, 6, 12), "base": (768, 12, 12), "large": (1024, 16, 24)}


@dataclass(frozen=True, slots=True)
class Scale:
    """Size that images are first resized to, as in mmsegmentation; by default they keep their size."""

    short: int | None = None
    """Short side in pixels; the aspect ratio is kept."""
    long: int | None = None
    """Maximum long side in pixels; longer images are scaled down further."""

    def of(self, size: Size, factor: float = 1.0) -> Size:
        """Return the height and width of an image of `size` at this scale, times a training factor."""
        ratio = factor
        if self.short is not None:
            ratio = int(factor * self.short) / min(size)
            if self.long is not None:
                ratio = min(ratio, int(factor * self.long) / max(size))
        height, width = (max(1, int(side * ratio + 0.5)) for side in size)
        return _bounded((height, width), size)


_MAX_PIXELS = 2**28
OWN_SIZE = Scale()
"""Images keep their size."""


def enlarged_to(size: Size, window: Size) -> Size:
    """Return the size of an image, enlarged at its aspect ratio until a window fits."""
    (height, width), (rows, columns) = size, window
    if height >= rows and width >= columns:
        return size
    if rows * width <= columns * height:  # the width limits
        return _bounded((max(rows, int(height / width * columns)), columns), size)
    return _bounded((rows, max(columns, int(width / height * rows))), size)


def _bounded(size: Size, before: Size) -> Size:
    """Refuse to enlarge a very narrow image beyond the memory limit."""
    if size[0] * size[1] > max(_MAX_PIXELS, before[0] * before[1]):
        resized = f"{before[0]}x{before[1]} would be resized to {size[0]}x{size[1]} pixels"
        raise UserError(f"an image of {resized}; at most {_MAX_PIXELS} pixels are allowed")
    return size


class ModelShape(BaseModel):
    """Dimensions and traits of a dense segmentation model: a plain ViT encoder and a decoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(gt=0, le=65536)
    """Embedding width of encoder and decoder."""
    heads: int = Field(gt=0)
    depth: int = Field(gt=0, le=1000)
    """Encoder blocks."""
    patch: Side
    """Side of a square patch, pixels."""
    image: tuple[Side, Side]
    """Height and width of the position embedding, pixels."""
    classes: int = Field(gt=1, le=255)  # label 255 means unlabelled
    prefix: int = Field(default=1, ge=0, le=64)
    """Special tokens before the patches: CLS, DIST, then registers."""
    registers: int = Field(default=0, ge=0, le=64)
    """Number of registers among the special tokens."""
    position: Literal["learned", "rotary", "none"] = "learned"
    """Position encoding: `learned` is added before the first block, `rotary` rotates queries and keys."""
    rope_base: float = Field(default=100.0, gt=1)
    """Rotary position: pair i of n rotates rope_base^(i/n) times slower than the first."""
    mlp_width: int | None = Field(default=None, gt=0)
    """Hidden width of the MLPs; default: 4 * width."""
    activation: Activation = "gelu"
    """Activation of the MLPs; `swiglu` has a gate of the same width."""
    qk_norm: bool = False
    """LayerNorm over each head's queries and keys."""
    pre_norm: bool = False
    """LayerNorm before the first block."""
    queries: int = Field(default=0, ge=0, le=1000)
    """eomt: number of learned queries; they enter as special tokens in front of all others."""
    query_blocks: int = Field(default=0, ge=0, le=1000)
    """eomt: number of blocks, the last ones, that process the queries."""
    decoder: Literal["linear", "mask", "eomt", "dpt", "upernet", "pup"] = "mask"
    decoder_depth: int = Field(default=2, ge=0, le=1000)
    """Transformer blocks of the mask decoder."""
    decoder_width: int = Field(default=256, gt=0, le=65536)
    """Channels inside a convolutional decoder (dpt, upernet, pup)."""
    taps: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Blocks, counted from 1, whose outputs a convolutional decoder reads; default: the last."""
    tap_widths: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = ()
    """dpt, upernet: channels of the four levels; default: width/8, /4, /2, /1 for dpt, width for upernet."""
    readout: Literal["ignore", "add", "project"] = "ignore"
    """dpt: how the CLS token of a tap is combined with its patches."""
    double_scores: bool = False
    """dpt: upsample the scores by 2 with aligned corners, as transformers does and mmsegmentation does not."""
    mask_upscales: int | None = Field(default=None, ge=1, le=6)
    """eomt: number of 2x upsampling steps of the masks; default: to a stride of 4 to 7 pixels, at least one step."""
    tap_norm: Literal["last", "all", "none"] = "last"
    """Taps that pass the encoder's final norm: only the last block, all taps, or none."""
    norm_eps: float = Field(default=1e-6, gt=0, lt=1)
    """LayerNorm epsilon of the encoder: 1e-6 in timm, 1e-5 in official Segmenter checkpoints."""
    normalization: Literal["vit", "deit", "clip"] = "vit"
    """Pixel mean and std: 0.5 for `vit`, ImageNet's for `deit`, CLIP's for `clip`."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if any(side < self.patch for side in self.image):
            raise ValueError(f"image {self.image} is smaller than one patch of {self.patch}")
        return self

    @model_validator(mode="after")
    def _traits_agree(self) -> Self:
        if not 0 <= self.prefix - self.registers <= 2:
            raise ValueError(
                f"prefix {self.prefix} with {self.registers} registers: expected 0, 1 (CLS) or 2 (CLS, DIST) others"
            )
        if self.position == "rotary" and self.head_dim % 4:
            raise ValueError(f"position rotary: the head width {self.head_dim} is not a multiple of 4")
        if (self.decoder == "eomt") != (self.queries > 0):
            raise ValueError(
                f"decoder {self.decoder} with {self.queries} queries: only eomt has queries, and it needs some"
            )
        if self.queries and not 1 <= self.query_blocks <= self.depth:
            raise ValueError(f"query_blocks is {self.query_blocks}: expected 1 to depth, {self.depth}")
        if list(self.taps) != sorted(set(self.taps)) or (self.taps and self.taps[-1] > self.depth):
            raise ValueError(f"taps {self.taps}: expected ascending blocks from 1 to depth, {self.depth}")
        return self

    @model_validator(mode="after")
    def _decoder_fits(self) -> Self:
        taps, name = len(self.tapped), self.decoder
        if taps not in TAPS[name]:
            expected = " or ".join(str(count) for count in TAPS[name])
            raise ValueError(f"taps {self.tapped}: expected {expected} of them for decoder {name}")
        if name in ("linear", "mask", "eomt") and self.tapped != (self.depth,):
            raise ValueError(f"taps {self.tapped}: decoder {name} reads only the last block, {self.depth}")
        if name not in ("dpt", "upernet") and self.tap_widths:
            raise ValueError(f"tap_widths {self.tap_widths}: only decoders dpt and upernet have them, not {name}")
        if self.tap_widths and len(self.tap_widths) != LEVELS:
            raise ValueError(f"tap_widths {self.tap_widths}: expected {LEVELS} widths")
        if name == "upernet" and len(set(self.level_widths)) > 1:
            raise ValueError(f"tap_widths {self.tap_widths}: decoder upernet needs equal widths")
        if self.readout != "ignore" and self.prefix == self.registers:
            raise ValueError(f"readout {self.readout}: the model has no CLS token")
        return self

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def mlp(self) -> int:
        """Hidden width of the MLPs."""
        return self.mlp_width or 4 * self.width

    @property
    def decoder_heads(self) -> int:
        return max(1, self.width // 64)

    @property
    def tapped(self) -> tuple[int, ...]:
        """Blocks, counted from 1, whose outputs the decoder reads."""
        return self.taps or (self.depth,)

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Channels of the four levels of dpt and upernet."""
        shares = (8, 4, 2, 1) if self.decoder == "dpt" else (1,) * LEVELS
        return self.tap_widths or tuple(max(1, self.width // share) for share in shares)

    @property
    def mask_factor(self) -> int:
        """Mask cells of eomt along each side of a patch."""
        upscales = max(1, self.patch.bit_length() - 3) if self.mask_upscales is None else self.mask_upscales
        return 2**upscales

    @property
    def normed_taps(self) -> tuple[int, ...]:
        """Tapped blocks whose outputs pass the encoder's final norm."""
        normed = {"all": self.tapped, "last": (self.depth,), "none": ()}[self.tap_norm]
        return tuple(tap for tap in self.tapped if tap in normed)

    @property
    def query_entry(self) -> int:
        """Block, counted from 0, before which the queries enter; without queries the depth, which no block has."""
        return self.depth - self.query_blocks if self.queries else self.depth

    def special(self, block: int) -> int:
        """Return the number of special tokens in a block, counted from 0; it grows where the queries enter."""
        return self.prefix + (self.queries if block >= self.query_entry else 0)

    @property
    def final_special(self) -> int:
        """Number of special tokens after the last block."""
        return self.prefix + self.queries

    def grid(self, image: Size | None = None) -> Grid:
        """Return rows and columns of patches; partial patches are padded to full ones."""
        height, width = image or self.image
        return -(-height // self.patch), -(-width // self.patch)


def vit(name: str, image: Size, classes: int, **other: object) -> ModelShape:
    """Return the shape of a ViT-Ti/S/B/L 16 Segmenter, by its name in `BACKBONES`."""
    return ModelShape.model_validate(vit_fields(name, {"image": image, "classes": classes, **other}))


def vit_fields(name: str, other: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of a `ModelShape` by backbone name, not validated."""
    width, heads, depth = BACKBONES[name]
    return {"width": width, "heads": heads, "depth": depth, "patch": 16, **other}


def deit_base_distilled(image: Size, classes: int) -> ModelShape:
    """Return the shape of the paper's model: DeiT-B/16 with CLS and DIST tokens and a 2-layer mask decoder."""
    return vit("base", image, classes, prefix=2, normalization="deit")
