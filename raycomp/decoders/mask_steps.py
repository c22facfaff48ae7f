# SPDX-License-Identifier: Apache-2.0
"""Steps and widths of Segmenter's mask transformer (ICCV 2021): patches and class embeddings attend to each other.

Legend: N tokens, K classes, E width.
"""

from raycomp.decoders.operations import Attention, Embedding, Input, Linear, Mlp, Norm, Product, Step, to_pixels
from raycomp.recipe import BlockWidths
from raycomp.shape import ModelShape

DECODER_STEP = 8
"""Step in which the decoder's head width follows the embedding width."""


def decoder_widths(shape: ModelShape, embed: int) -> BlockWidths:
    """Return the widths of the decoder's blocks: heads and MLP ratio stay; head and MLP widths follow the embedding."""
    heads, width = shape.decoder_heads, shape.width // shape.decoder_heads
    if embed != shape.width:
        width = min(width, max(1, embed // heads // DECODER_STEP) * DECODER_STEP)
    return BlockWidths(heads=heads, qk=width, v=width, mlp=4 * embed)


def steps(spec: Input) -> tuple[Step, ...]:
    """Return the steps on the tokens that remain after merging and one embedding per class."""
    embed, classes = spec.embed, spec.shape.classes
    patches, tokens = (spec.patches, 1), (spec.patches + classes, 1)
    widths = decoder_widths(spec.shape, embed)
    attention = Attention(embed, widths.heads, widths.qk, widths.v)
    result = [
        Step("proj_dec", Linear(embed, embed), patches, reads=True),
        Step("cls_emb", Embedding(classes, embed), (classes, 1)),
    ]
    for index in range(spec.shape.decoder_depth):
        result.append(Step(f"blocks.{index}.attn", attention, tokens))
        result.append(Step(f"blocks.{index}.mlp", Mlp(embed, widths.mlp), tokens))
    return (
        *result,
        Step("decoder_norm", Norm(embed), tokens),
        Step("proj_patch", Product(embed, embed), patches),
        Step("proj_classes", Product(embed, embed), (classes, 1)),
        Step("", Product(embed, classes), patches),
        Step("mask_norm", Norm(classes), patches),
        *to_pixels(spec, spec.grid),
    )
