# SPDX-License-Identifier: Apache-2.0
"""Count GFLOPs and tokens per block of a recipe analytically, without torch or a model.

The convention is fvcore's (REFERENCE 2): a multiply-add counts 1, LayerNorm 5 per element, bilinear
upsampling 4 per output element, batch normalisation 2 per element; softmax, GELU, residual adds, gathers
and scatters are free. The matching product of a merge step and policy networks are counted.

Legend: N tokens, E embedding width, H heads, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from raycomp.decoders import decoder_cost
from raycomp.decoders.halves import NORM_COST, attention_cost, mlp_cost
from raycomp.decoders.mask_steps import decoder_widths as decoder_widths
from raycomp.decoders.operations import Input
from raycomp.recipe import Recipe, tokens_removed
from raycomp.shape import ModelShape, Size


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
    before, removed = removals(shape, recipe, (height, width), tokens)
    embedding = (patches - before) * embed * 3 * shape.patch**2
    if recipe.merge is not None:
        embedding += recipe.merge.extra_cost(shape.patch, (height, width))
    left = patches - before
    if shape.pre_norm:
        embedding += NORM_COST * (left + shape.prefix) * embed
    blocks, after, gated = [], [], shape.activation == "swiglu"
    for index, (widths, r) in enumerate(zip(recipe.blocks, removed, strict=True)):
        special = shape.special(index)
        cost = attention_cost(left + special, embed, widths.heads, widths.qk, widths.v, shape.qk_norm)
        if recipe.merge is not None:
            early = recipe.merge.removed_before_pairs(index, left)
            metric = recipe.merge.metric_width(index, r - early, embed, widths.heads, widths.qk)
            cost += _matching(left + special - early, metric)
        left -= r
        cost += mlp_cost(left + special, embed, widths.mlp, gated)
        blocks.append(cost)
        after.append(left + special)
    normed = sum(after[tap - 1] for tap in shape.normed_taps)
    decoder = NORM_COST * normed * embed + decoder_cost(Input(shape, embed, (height, width), left))
    total = embedding + sum(blocks) + decoder
    return Profile(
        gflops=total / 1e9,
        embedding=embedding / 1e9,
        blocks=tuple(b / 1e9 for b in blocks),
        decoder=decoder / 1e9,
        tokens=tuple(after),
    )


def removals(
    shape: ModelShape, recipe: Recipe, image: Size | None = None, tokens: Sequence[int] | None = None
) -> tuple[int, list[int]]:
    """Return how many tokens are removed before the first block, and in each block; arguments as in `profile`."""
    if tokens is None:
        return tokens_removed(shape, recipe.merge, image)
    rows, columns = shape.grid(image)
    counts = [rows * columns, *(count - shape.special(block) for block, count in enumerate(tokens))]
    return 0, [counts[i] - counts[i + 1] for i in range(shape.depth)]


def gflops(shape: ModelShape, recipe: Recipe, image: Size | None = None, tokens: Sequence[int] | None = None) -> float:
    """Return the GFLOPs of one forward pass; see `profile`."""
    return profile(shape, recipe, image, tokens).gflops


def _matching(n: int, metric_width: int) -> int:
    """Count the scores between all sources (even positions) and destinations (odd positions)."""
    return (n + 1) // 2 * (n // 2) * metric_width
