# SPDX-License-Identifier: Apache-2.0
"""Count GFLOPs and tokens per block of a recipe analytically, without torch or a model.

The convention is fvcore's (REFERENCE 2): a multiply-add counts 1, LayerNorm 5 per element, bilinear
upsampling 4 per output element, batch normalisation 2 per element; softmax, GELU, residual adds, gathers
and scatters are free. The matching product of a merge step and policy networks are counted.

Legend: N tokens, E embedding width, H heads, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from raycomp.recipe import BlockWidths, Recipe, tokens_removed
from raycomp.shape import ModelShape, Size

NORM_COST = 5
UPSAMPLE_COST = 4
DECODER_STEP = 8  # step in which the decoder's head width follows the embedding width


@dataclass(frozen=True, slots=True)
class Profile:
    """Cost of a recipe for one image, in GFLOPs, and its token counts."""

    gflops: float
    embedding: float
    """Patch embedding, plus the policy network if the merge method has one."""
    blocks: tuple[float, ...]
    """Each encoder block, including its matching step."""
    decoder: float
    """Decoder, final encoder norm and upsampling to pixels."""
    tokens: tuple[int, ...]
    """Tokens after each block, including special tokens."""

    @property
    def encoder(self) -> float:
        return self.embedding + sum(self.blocks)


@dataclass(frozen=True, slots=True)
class DecoderWidths:
    """Widths of the mask decoder for an embedding width."""

    heads: int
    head_dim: int
    mlp: int


def decoder_widths(shape: ModelShape, embed: int) -> DecoderWidths:
    """Return the decoder's widths: heads and MLP ratio 4 are kept; head and MLP widths follow the embedding."""
    full = shape.width // shape.decoder_heads
    if embed == shape.width:
        return DecoderWidths(shape.decoder_heads, full, 4 * shape.width)
    steps = embed // shape.decoder_heads // DECODER_STEP
    return DecoderWidths(shape.decoder_heads, min(full, max(1, steps) * DECODER_STEP), 4 * embed)


def profile(
    shape: ModelShape, recipe: Recipe, image: Size | None = None, tokens: Sequence[int] | None = None
) -> Profile:
    """Count the cost of one forward pass.

    Args:
        shape: the dense model.
        recipe: widths and merging.
        image: height and width of the input in pixels; default: the shape's image size.
        tokens: tokens after each block, including special tokens, measured on an image; required for
            adaptive merging.

    Returns:
        The cost of one image in GFLOPs.

    Raises:
        UserError: if the merge method cannot work on the grid.
        ValueError: for adaptive merging without `tokens`.
    """
    height, width = image or shape.image
    rows, columns = shape.grid((height, width))
    patches, embed = rows * columns, recipe.embed
    if tokens is None:
        before, removed = tokens_removed(shape, recipe.merge, (height, width))
    else:
        counts = [patches, *(count - shape.special(block) for block, count in enumerate(tokens))]
        before, removed = 0, [counts[i] - counts[i + 1] for i in range(shape.depth)]
    embedding = (patches - before) * embed * 3 * shape.patch**2
    if recipe.merge is not None:
        embedding += recipe.merge.extra_cost(shape.patch, (height, width))
    left = patches - before
    if shape.pre_norm:
        embedding += NORM_COST * (left + shape.prefix) * embed
    blocks, after = [], []
    for index, (widths, r) in enumerate(zip(recipe.blocks, removed, strict=True)):
        special = shape.special(index)
        cost = _attention(left + special, embed, widths, shape.qk_norm)
        if recipe.merge is not None:
            width = recipe.merge.metric_width(index, r, embed, widths.heads, widths.qk)
            cost += _matching(left + special, width)
        left -= r
        cost += _mlp(left + special, embed, widths.mlp, shape.activation == "swiglu")
        blocks.append(cost)
        after.append(left + special)
    last_norm = NORM_COST * after[-1] * embed
    decoder = last_norm + _decoder(shape, embed, left)
    decoder += UPSAMPLE_COST * (rows * shape.patch) * (columns * shape.patch) * shape.classes
    total = embedding + sum(blocks) + decoder
    return Profile(
        gflops=total / 1e9,
        embedding=embedding / 1e9,
        blocks=tuple(b / 1e9 for b in blocks),
        decoder=decoder / 1e9,
        tokens=tuple(after),
    )


def gflops(shape: ModelShape, recipe: Recipe, image: Size | None = None, tokens: Sequence[int] | None = None) -> float:
    """Return the GFLOPs of one forward pass; see `profile`."""
    return profile(shape, recipe, image, tokens).gflops


def _attention(n: int, embed: int, widths: BlockWidths, qk_norm: bool = False) -> int:
    """Count LayerNorm, qkv, norms of queries and keys, both attention products and the output projection."""
    heads, qk, v = widths.heads, widths.qk, widths.v
    norm = NORM_COST * n * embed + (2 * (NORM_COST - 1) * n * heads * qk if qk_norm else 0)  # these without weights
    qkv = n * embed * heads * (2 * qk + v)
    return norm + qkv + n * n * heads * (qk + v) + n * heads * v * embed


def _mlp(n: int, embed: int, hidden: int, gated: bool = False) -> int:
    """Count LayerNorm and the linear maps, of which a gated MLP has three."""
    return NORM_COST * n * embed + (3 if gated else 2) * n * embed * hidden


def _matching(n: int, metric_width: int) -> int:
    """Count the scores between all sources (even positions) and destinations (odd positions)."""
    return (n + 1) // 2 * (n // 2) * metric_width


def _decoder(shape: ModelShape, embed: int, patches: int) -> int:
    k = shape.classes
    if shape.decoder == "linear":
        return patches * embed * k
    widths = decoder_widths(shape, embed)
    block = BlockWidths(heads=widths.heads, qk=widths.head_dim, v=widths.head_dim, mlp=widths.mlp)
    n = patches + k
    cost = patches * embed * embed  # proj_dec
    for _ in range(shape.decoder_depth):
        cost += _attention(n, embed, block) + _mlp(n, embed, block.mlp)
    cost += NORM_COST * n * embed  # decoder_norm
    cost += (patches + k) * embed * embed  # proj_patch, proj_classes
    return cost + patches * embed * k + NORM_COST * patches * k  # masks, mask_norm
