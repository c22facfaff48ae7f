# SPDX-License-Identifier: Apache-2.0
"""Count parameters and memory of a recipe analytically, without torch or a model.

Parameters equal those of the built model. Memory is an estimate for one forward pass in inference: the weights, the
images, and the activations that are alive at once in the most demanding layer.

Legend: N tokens, E embedding width, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from raycomp.decoders import decoder_params, decoder_peak, decoder_weights
from raycomp.decoders.halves import (
    attention_params,
    attention_peak,
    attention_weights,
    mlp_params,
    mlp_peak,
    mlp_weights,
)
from raycomp.decoders.operations import Input
from raycomp.flops import removals
from raycomp.policies import policy_params, policy_peak
from raycomp.recipe import Recipe
from raycomp.shape import ModelShape, Size

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per number, by precision."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that one forward pass needs."""

    weights: int
    activations: int
    """Most bytes of activations at once, images and logits included."""

    @property
    def total(self) -> int:
        return self.weights + self.activations


def params(shape: ModelShape, recipe: Recipe) -> int:
    """Return the number of parameters of a recipe's model, a policy network included."""
    embed, gated = recipe.embed, shape.activation == "swiglu"
    rows, columns = shape.grid()
    total = embed * (3 * shape.patch**2 + 1)
    total += (shape.prefix + shape.queries) * embed
    total += (shape.prefix + rows * columns) * embed if shape.position == "learned" else 0
    total += 2 * embed * (1 + shape.pre_norm)  # LayerNorms after and before the blocks
    for block in recipe.blocks:
        total += attention_params(embed, block.heads, block.qk, block.v, shape.qk_norm)
        total += mlp_params(embed, block.mlp, gated)
    if recipe.merge is not None and (kind := recipe.merge.policy_kind) is not None:
        total += policy_params(kind, shape.patch)
    return total + decoder_params(shape, embed)


def file_size(shape: ModelShape, recipe: Recipe) -> int:
    """Return the bytes of the weights of an exported model, in ONNX for INT8.

    The file is a little larger: it also holds a header or a graph, and the scales of INT8.
    """
    return _weight_bytes(shape, recipe, BYTES["float32"])


def linear_weights(shape: ModelShape, recipe: Recipe) -> int:
    """Return the number of weights of linear maps, which have 8 bits in INT8; biases stay in float32."""
    embed, gated = recipe.embed, shape.activation == "swiglu"
    blocks = (
        attention_weights(embed, block.heads, block.qk, block.v) + mlp_weights(embed, block.mlp, gated)
        for block in recipe.blocks
    )
    return sum(blocks) + decoder_weights(shape, embed)


def _weight_bytes(shape: ModelShape, recipe: Recipe, size: int) -> int:
    """Return the bytes of the weights; those that are not quantised have `size` bytes each."""
    saved = linear_weights(shape, recipe) * (size - 1) if recipe.precision == "int8" else 0
    return params(shape, recipe) * size - saved


def memory(
    shape: ModelShape,
    recipe: Recipe,
    image: Size | None = None,
    batch: int = 1,
    dtype: str = "float32",
    tokens: Sequence[int] | None = None,
) -> Memory:
    """Estimate the memory of one forward pass without gradients.

    Counted are the weights, the images, and at each layer the numbers that it reads and writes and those that a later
    layer needs. Not counted are the record of merged tokens and the workspaces of libraries. On a CPU in float32,
    activations are within 2 % of what torch allocates for models of the size of the shipped one, and 0.75 to 1.1 times
    that for tiny ones, policy networks and convolutional decoders (`tests/test_footprint.py`).

    Args:
        image: height and width in pixels; default: the shape's image size.
        batch: images of the pass.
        dtype: precision of weights and activations; linear maps of an INT8 recipe have a byte per weight.
        tokens: tokens after each block, special tokens included; required for adaptive merging.

    Raises:
        UserError: if the merge method cannot work on the grid.
        ValueError: for adaptive merging without `tokens`.
    """
    size = image or shape.image
    values = 3 * size[0] * size[1] + _peak(shape, recipe, size, tokens)
    return Memory(_weight_bytes(shape, recipe, BYTES[dtype]), batch * values * BYTES[dtype])


def _peak(shape: ModelShape, recipe: Recipe, image: Size, tokens: Sequence[int] | None) -> int:
    """Return the most numbers that a model holds at a time for one image, besides the image."""
    embed, gated, (before, removed) = recipe.embed, shape.activation == "swiglu", removals(shape, recipe, image, tokens)
    rows, columns = shape.grid(image)
    left, held = rows * columns - before, 0
    peak = 3 * embed * (left + shape.prefix)  # patches, with positions, with special tokens
    if recipe.merge is not None and (kind := recipe.merge.policy_kind) is not None:
        pixels = 3 * shape.patch**2  # all patches, those of the image at half its size, and those that are kept
        peak = max(peak, pixels * (rows * columns * 3 // 2 + 3 * left), policy_peak(kind, image))
    for index, (block, r) in enumerate(zip(recipe.blocks, removed, strict=True)):
        n = left + shape.special(index)
        attention = n * (embed + attention_peak(embed, block.heads, block.qk, block.v))
        keys = n * block.heads * (2 * block.qk + block.v)  # with the queries and values that lie beside them
        merging = keys + 2 * n * embed + n * n // 4 if r else 0
        left -= r
        n = left + shape.special(index)
        peak = max(peak, held + attention, held + merging, held + n * (embed + mlp_peak(embed, block.mlp, gated)))
        held += n * embed if index + 1 in shape.tapped[:-1] else 0
    features = len(shape.tapped) * embed * (left + shape.final_special)
    return max(peak, features + decoder_peak(Input(shape, embed, image, left)))
