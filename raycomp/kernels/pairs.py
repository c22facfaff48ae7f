# SPDX-License-Identifier: Apache-2.0
"""Match tokens to merge, in three kernels: unit vectors, best partners, positions after merging.

Results equal plain torch in `raycomp.merging.tokens`, in float32. Scores are compared where they are computed; the
(sources, destinations) matrix is never written.

Legend: B batch, H heads, N tokens, C channels, S sources (even positions), D destinations (odd positions).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_CHANNELS = 64  # maximum per tile of vectors that is read once
_PROGRAMS = 132  # to fill the multiprocessors of an H100 or H200
_ELEMENTS = 2048  # per tile of vectors


def best_partners(metric: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
    """Implement `raycomp.merging.tokens.best_partners` for a metric (B, N, C), or (B, H, N, C) averaged over heads."""
    if metric.dim() == 3:
        metric = metric[:, None]
    B, H, N, C = metric.shape
    sources, width = (N + 1) // 2, max(16, triton.next_power_of_2(C))
    chunk = width if width <= _CHANNELS else 32
    pitch = triton.cdiv(C, chunk) * chunk  # a multiple of the tile, padded with zeros
    unit = torch.empty(B, N, pitch, dtype=torch.float32, device=metric.device)
    rows = max(1, _ELEMENTS // width)
    _unit[(triton.cdiv(N, rows), B)](metric, unit, *metric.stride(), H, N, C, pitch, rows, width)
    best = torch.empty(B, sources, dtype=torch.float32, device=metric.device)
    partner = torch.empty(B, sources, dtype=torch.int64, device=metric.device)
    rows, columns = (64, 32) if B * triton.cdiv(sources, 64) >= _PROGRAMS else (16, 64)
    _best[(triton.cdiv(sources, rows), B)](
        unit, best, partner, N, (prefix + 1) // 2, prefix // 2, pitch, rows, columns, chunk
    )  # fmt: skip
    return best, partner


def pair_positions(best: Tensor, partner: Tensor, r: int, tokens: int, prefix: int) -> Tensor:
    """Implement `raycomp.merging.tokens.pair_positions`, with one program per image."""
    B, sources = best.shape
    index = torch.empty(B, tokens, dtype=torch.int64, device=best.device)
    block = triton.next_power_of_2(sources)
    _positions[(B,)](best, partner, index, r, sources, tokens, prefix, block, num_warps=4 if block <= 1024 else 8)
    return index


@triton.jit(do_not_specialize=["heads", "tokens"])
def _unit(
    metric: tl.tensor, unit: tl.tensor,
    image_stride: int, head_stride: int, token_stride: int, channel_stride: int,
    heads: int, tokens: int, channels: int, pitch: int,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """Average metric (B, H, N, C) over heads, round it to its dtype as torch does, and normalise it to length 1.

    Rows are padded with zeros up to the pitch.
    """
    image = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, WIDTH)
    inside = (row < tokens)[:, None] & (channel < channels)[None, :]
    metric += image * image_stride
    at = row[:, None] * token_stride + channel[None, :] * channel_stride
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for _ in range(heads):
        total += tl.load(metric + at, inside, 0.0).to(tl.float32)
        metric += head_stride
    mean = tl.div_rn(total, heads * 1.0).to(metric.dtype.element_ty).to(tl.float32)
    norm = tl.maximum(tl.sqrt_rn(tl.sum(mean * mean, axis=1)), 1e-12)
    unit += image * tokens * pitch
    tl.store(
        unit + row[:, None] * pitch + channel[None, :],
        tl.div_rn(mean, tl.broadcast_to(norm[:, None], (ROWS, WIDTH))),
        (row < tokens)[:, None] & (channel < pitch)[None, :],
    )


@triton.jit(do_not_specialize=["tokens", "source_specials", "destination_specials"])
def _best(
    unit: tl.tensor, best: tl.tensor, partner: tl.tensor,
    tokens: int, source_specials: int, destination_specials: int,
    PITCH: tl.constexpr, SOURCES: tl.constexpr, DESTINATIONS: tl.constexpr, CHANNELS: tl.constexpr,
) -> None:  # fmt: skip
    """Find the highest cosine of each source in a tile, and its destination; ties go to the lower index.

    Three TF32 products replace one float32 product (a single one would make many scores tie). A number is split into
    11 bits and the next 11, with an error of at most 2^-23 of it. With the omitted product of both remainders, 2^-22,
    a cosine of unit vectors is within 2^-21 = 5e-7 (Cauchy-Schwarz). Sums of a tile start at zero and are added in
    float32.
    """
    image = tl.program_id(1).to(tl.int64)
    unit += image * tokens * PITCH
    sources, destinations = (tokens + 1) // 2, tokens // 2
    source = tl.program_id(0) * SOURCES + tl.arange(0, SOURCES)
    lane, channel = tl.arange(0, DESTINATIONS), tl.arange(0, CHANNELS)
    row = unit + 2 * source[:, None] * PITCH + channel[None, :]
    column = unit + (2 * lane + 1)[None, :] * PITCH + channel[:, None]
    valid_sources = (source < sources)[:, None]
    if CHANNELS == PITCH:
        a = tl.load(row, valid_sources, 0.0)
    highest = tl.full((SOURCES, DESTINATIONS), float("-inf"), tl.float32)  # per residue modulo DESTINATIONS
    whose = tl.zeros((SOURCES, DESTINATIONS), tl.int32)
    for first in range(0, destinations, DESTINATIONS):
        destination = first + lane
        valid_destinations = (destination < destinations)[None, :]
        scores = tl.zeros((SOURCES, DESTINATIONS), tl.float32)
        if CHANNELS == PITCH:
            b = tl.load(column + 2 * first * PITCH, valid_destinations, 0.0)
            scores = tl.dot(a, b, input_precision="tf32x3")
        else:
            for start in range(0, PITCH, CHANNELS):
                a = tl.load(row + start, valid_sources, 0.0)
                b = tl.load(column + 2 * first * PITCH + start, valid_destinations, 0.0)
                scores = tl.dot(a, b, scores, input_precision="tf32x3")
        allowed = (destination >= destination_specials) & (destination < destinations)
        better = allowed[None, :] & (scores > highest)
        whose = tl.where(better, destination[None, :], whose)
        highest = tl.where(better, scores, highest)
    high = tl.max(highest, axis=1)
    whose = tl.min(tl.where(highest == high[:, None], whose, destinations), axis=1)  # ties: lower index
    special = source < source_specials
    high, whose = tl.where(special, float("-inf"), high), tl.where(special, 0, whose)
    at = image * sources + source
    tl.store(best + at, high, source < sources)
    tl.store(partner + at, whose.to(tl.int64), source < sources)


@triton.jit(do_not_specialize=["r", "sources", "tokens", "prefix"])
def _positions(
    best: tl.tensor, partner: tl.tensor, index: tl.tensor,
    r: int, sources: int, tokens: int, prefix: int,
    BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Find the r-th highest score bit by bit instead of sorting, and number the remaining tokens."""
    image = tl.program_id(0).to(tl.int64)
    source = tl.arange(0, BLOCK)
    inside = source < sources
    score = tl.load(best + image * sources + source, inside, float("-inf"))
    score = tl.where(score == 0.0, 0.0, score)  # -0.0 equals 0.0
    bits = score.to(tl.int32, bitcast=True)
    key = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.uint32, bitcast=True) ^ 0x80000000  # unsigned, in order of scores
    limit, bit = tl.full((), 0, tl.uint32), tl.full((), 0x80000000, tl.uint32)
    for _ in range(32):
        higher = limit | bit
        enough = tl.sum((inside & (key >= higher)).to(tl.int32), axis=0) >= r
        limit = tl.where(enough, higher, limit)
        bit = bit >> 1
    above = inside & (key > limit)
    equal = inside & (key == limit)
    left = r - tl.sum(above.to(tl.int32), axis=0)
    merges = above | (equal & (tl.cumsum(equal.to(tl.int32), axis=0) <= left))  # ties: lower index

    source_specials, destination_specials = (prefix + 1) // 2, prefix // 2
    kept = sources - source_specials - r
    regular = inside & (source >= source_specials)
    stays = tl.cumsum((regular & ~merges).to(tl.int32), axis=0)
    into = tl.load(partner + image * sources + source, inside, 0).to(tl.int32)
    position = tl.where(merges, prefix + kept + into - destination_specials, prefix + stays - 1)
    index += image * tokens
    tl.store(index + 2 * source, position.to(tl.int64), regular)
    destination = (source >= destination_specials) & (source < tokens // 2)
    tl.store(index + 2 * source + 1, (prefix + kept + source - destination_specials).to(tl.int64), destination)
    tl.store(index + source, source.to(tl.int64), source < prefix)
