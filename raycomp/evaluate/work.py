# SPDX-License-Identifier: Apache-2.0
"""Count what a recipe's model computes and moves, by kind of work, without torch or a model.

FLOPs alone do not tell time: softmax, activations and copies take time without counting as FLOPs, and every layer has
a fixed cost. Kinds are chosen so that the time of a model is nearly a weighted sum of them, on a CPU or a GPU.

Legend: N tokens, E embedding width, H heads, Q and V widths per head, M hidden width of an MLP.
"""

from raycomp.decoders import decoder_cost
from raycomp.decoders.operations import Input
from raycomp.recipe import Recipe, tokens_removed
from raycomp.shape import ModelShape, Size

KINDS = {
    "model": "1: what no recipe changes",
    "embedding": "patches x E",
    "policy": "1 if a policy network decides where tokens merge",
    "linear": "multiply-adds of the linear maps in blocks",
    "attention": "multiply-adds of the two products of attention, N x N x H (Q + V)",
    "softmax": "N x N x H",
    "weighted_softmax": "N x N x H where attention weights tokens by their size",
    "weighted_tokens": "N where attention weights tokens by their size",
    "halves": "number of attentions and MLPs",
    "norms": "N x E of every attention and MLP",
    "heads": "N x H (2 Q + V)",
    "hidden": "N x M, twice that if gated",
    "merging": "number of blocks that merge pairs",
    "pairs": "similarities that are compared",
    "merged": "N x E before pairs merge",
    "windows": "N x E before windows merge",
    "restored": "1 if any tokens merge, and the decoder's scores return to the patches",
    "decoder": "multiply-adds of the decoder, and of upsampling",
    "features": "N x E after the last block",
}
"""Kinds of work, and what is counted of each on one image."""


def work(shape: ModelShape, recipe: Recipe, image: Size) -> dict[str, float]:
    """Count the work of one forward pass on one image, by kind.

    Args:
        shape: of the dense model.
        image: height and width in pixels.

    Raises:
        UserError: if the merge method cannot work on the grid.
        ValueError: for adaptive merging, which depends on the image.
    """
    done = dict.fromkeys(KINDS, 0.0)
    merge, embed, gate = recipe.merge, recipe.embed, 2 if shape.activation == "swiglu" else 1
    before, removed = tokens_removed(shape, merge, image)
    rows, columns = shape.grid(image)
    patches = rows * columns - before
    done["model"], done["embedding"] = 1.0, float(patches * embed)
    done["policy"] = float(merge is not None and merge.needs_policy)
    weighted = False
    for index, (block, r) in enumerate(zip(recipe.blocks, removed, strict=True)):
        special = shape.special(index)
        n, scores, channels = patches + special, (patches + special) ** 2 * block.heads, 2 * block.qk + block.v
        if block.heads:
            done["halves"] += 1
            done["linear"] += n * embed * block.heads * (channels + block.v)
            done["attention"] += scores * (block.qk + block.v)
            done["softmax"] += scores
            done["norms"] += n * embed
            done["heads"] += n * block.heads * channels
            if weighted:
                done["weighted_softmax"] += scores
                done["weighted_tokens"] += n
        if merge is not None and r:
            first = merge.removed_before_pairs(index, patches)
            pairs = merge.metric_width(index, r - first, embed, block.heads, block.qk) > 0
            done["windows"] += n * embed if first or not pairs else 0
            if pairs and r > first:
                left = n - first
                done["merging"] += 1
                done["pairs"] += (left + 1) // 2 * (left // 2)
                done["merged"] += left * embed
            weighted = weighted or merge.proportional
        patches -= r
        n = patches + special
        if block.mlp:
            done["halves"] += 1
            done["linear"] += (1 + gate) * n * embed * block.mlp
            done["norms"] += n * embed
            done["hidden"] += gate * n * block.mlp
    done["restored"] = float(bool(before or any(removed)))
    done["decoder"] = float(decoder_cost(Input(shape, embed, image, patches)))
    done["features"] = float((patches + shape.final_special) * embed)
    return done
