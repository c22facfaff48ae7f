# SPDX-License-Identifier: Apache-2.0
"""Cost, parameters and memory of the halves of a transformer block, without torch; see `operations` for the convention.

Each half has its LayerNorm. A half of width 0 is dropped and counts nothing.
"""

NORM_COST = 5


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


def attention_params(embed: int, heads: int, qk: int, v: int, qk_norm: bool = False) -> int:
    """Count the parameters of LayerNorm, qkv, norms of queries and keys, and the output projection."""
    if not heads:
        return 0
    units = heads * (2 * qk + v)
    return 2 * embed + units * (embed + 1) + (heads * v + 1) * embed + (4 * heads * qk if qk_norm else 0)


def mlp_params(embed: int, hidden: int, gated: bool = False) -> int:
    """Count the parameters of LayerNorm and two linear maps, or three if gated; 0 without hidden channels."""
    return hidden and 2 * embed + (2 if gated else 1) * hidden * (embed + 1) + (hidden + 1) * embed


def attention_weights(embed: int, heads: int, qk: int, v: int) -> int:
    """Count the weights of qkv and the output projection, without biases."""
    return 2 * embed * heads * (qk + v)


def mlp_weights(embed: int, hidden: int, gated: bool = False) -> int:
    """Count the weights of two linear maps, or three if gated, without biases."""
    return (3 if gated else 2) * embed * hidden


def attention_peak(embed: int, heads: int, qk: int, v: int) -> int:
    """Count the numbers per token that attention holds at most at a time, without its input.

    These are the normalised input, q, k and v, the attended values and the output. Fused kernels hold no N x N scores,
    but need equal head widths, so the narrower of QK and V is padded.
    """
    padded = 2 * max(0, v - qk) and 2 * v
    padded += qk if v < qk else 0
    cut = v if v < qk else 0  # the attended values are copied without the padding
    return (2 * embed + heads * (2 * qk + v + padded + max(qk, v) + cut)) if heads else 0


def mlp_peak(embed: int, hidden: int, gated: bool = False) -> int:
    """Count the numbers per token that an MLP holds at most at a time, without its input.

    These are the normalised input, and the hidden channels before and after the activation; a gated MLP also holds its
    gate before and after.
    """
    return embed + max((4 if gated else 2) * hidden, hidden + embed) if hidden else 0
