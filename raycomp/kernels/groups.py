# SPDX-License-Identifier: Apache-2.0
"""Size-weighted means of tokens that share a position, in two kernels without atomics, so results are deterministic.

The first kernel lists the members of each position, the second adds them in float32, whatever the dtype.

Legend: B batch, N tokens, E embedding width.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_TOKENS, _OTHERS = 16, 128  # per tile of comparisons
_POSITIONS, _WIDTH = 8, 256  # per tile of means


def merge(x: Tensor, size: Tensor, index: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Implement `raycomp.merging.tokens.merge`; every position below `count` must occur in `index`."""
    B, N, E = x.shape
    x, size, index = x.contiguous(), size.contiguous(), index.contiguous()
    members = torch.empty(B, N, dtype=torch.int32, device=x.device)
    starts = torch.empty(B, count + 1, dtype=torch.int32, device=x.device)
    sizes = size.new_empty(B, count)
    _members[(triton.cdiv(N, _TOKENS), B)](index, size, members, starts, sizes, N, count, _TOKENS, _OTHERS)
    merged = x.new_empty(B, count, E)
    width = min(_WIDTH, triton.next_power_of_2(E))
    grid = (triton.cdiv(count, _POSITIONS), B, triton.cdiv(E, width))
    _means[grid](x, size, members, starts, sizes, merged, N, count, E, _POSITIONS, width)
    return merged, sizes


@triton.jit(do_not_specialize=["tokens", "count"])
def _members(
    index: tl.tensor, size: tl.tensor,
    members: tl.tensor, starts: tl.tensor, sizes: tl.tensor,
    tokens: int, count: int,
    TOKENS: tl.constexpr, OTHERS: tl.constexpr,
) -> None:  # fmt: skip
    """Sort tokens by position, then index, by counting predecessors; a position's first token adds its sizes."""
    image = tl.program_id(1).to(tl.int64)
    index += image * tokens
    size += image * tokens
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    inside = token < tokens
    target = tl.load(index + token, inside, 0).to(tl.int32)
    place = tl.zeros((TOKENS,), tl.int32)  # in the sorted order
    earlier = tl.zeros((TOKENS,), tl.int32)  # earlier tokens of the same position
    total = tl.zeros((TOKENS,), tl.float32)
    for start in range(0, tokens, OTHERS):
        other = start + tl.arange(0, OTHERS)
        valid = other < tokens
        position = tl.load(index + other, valid, 0).to(tl.int32)
        weight = tl.load(size + other, valid, 0.0).to(tl.float32)
        same = (position[None, :] == target[:, None]) & valid[None, :]
        first = same & (other[None, :] < token[:, None])
        lower = (position[None, :] < target[:, None]) & valid[None, :]
        earlier += tl.sum(first.to(tl.int32), axis=1)
        place += tl.sum((first | lower).to(tl.int32), axis=1)
        total += tl.sum(tl.where(same, weight[None, :], 0.0), axis=1)
    members += image * tokens
    starts += image * (count + 1)
    leads = inside & (earlier == 0)
    tl.store(members + place, token, inside)
    tl.store(starts + target, place, leads)
    tl.store(starts + count, tokens)
    tl.store(sizes + image * count + target, total, leads)


@triton.jit(do_not_specialize=["tokens", "count"])
def _means(
    x: tl.tensor, size: tl.tensor,
    members: tl.tensor, starts: tl.tensor, sizes: tl.tensor,
    merged: tl.tensor,
    tokens: int, count: int, width: int,
    POSITIONS: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """Add the members of a tile of positions, one member per position at a time."""
    image = tl.program_id(1).to(tl.int64)
    position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    channel = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    inside, wide = position < count, channel < width
    starts += image * (count + 1)
    members += image * tokens
    size += image * tokens
    x += image * tokens * width
    begin, end = tl.load(starts + position, inside, 0), tl.load(starts + position + 1, inside, 0)
    denominator = tl.load(sizes + image * count + position, inside, 1.0).to(tl.float32)
    total = tl.zeros((POSITIONS, WIDTH), tl.float32)
    for turn in range(tl.max(end - begin, axis=0)):
        here = begin + turn < end
        token = tl.load(members + begin + turn, here, 0)
        part = tl.div_rn(tl.load(size + token, here, 0.0).to(tl.float32), denominator)
        at = token[:, None] * width + channel[None, :]
        row = tl.load(x + at, here[:, None] & wide[None, :], 0.0).to(tl.float32)
        total += part[:, None] * row
    merged += image * count * width
    out = position[:, None] * width + channel[None, :]
    tl.store(merged + out, total.to(merged.dtype.element_ty), inside[:, None] & wide[None, :])
