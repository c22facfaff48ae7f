# SPDX-License-Identifier: Apache-2.0
"""Attention in one kernel: online softmax over tiles of keys, with a bias per key, which torch's flash kernel lacks.

Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning", ICLR 2024, Algorithm 1.
Products use bfloat16 or float16; sums and the softmax use float32.

Legend: B batch, H heads, Nq queries, N keys, qk and v widths of a head.
"""

import math

import triton
import triton.language as tl
from torch import Tensor

_KEYS = 64  # per tile of scores
_PROGRAMS = 132  # to fill the multiprocessors of an H100 or H200
_LOG2E = tl.constexpr(math.log2(math.e))


def attend(query: Tensor, key: Tensor, value: Tensor, log_size: Tensor | None, scale: float) -> Tensor:
    """Compute softmax(scale * query @ key^T + log_size) @ value.

    Args:
        query: (B, H, Nq, qk), bfloat16 or float16; any strides, but non-adjacent channels are copied.
        key: (B, H, N, qk).
        value: (B, H, N, v).
        log_size: (B, N), finite; None for no bias.
        scale: non-negative.

    Returns:
        (B, Nq, H * v), the input layout of the output projection.
    """
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    (B, H, queries, qk), v = query.shape, value.shape[-1]
    out = query.new_empty(B, queries, H * v)
    strides = [*query.stride()[:3], *key.stride()[:3], *value.stride()[:3]]
    step = math.gcd(8, H * v, v, *strides)  # 8 elements are the 16 bytes that a thread loads at once
    tile = 128 if B * H * triton.cdiv(queries, 128) >= _PROGRAMS else 64
    # With narrow heads, two programs of 8 warps share a multiprocessor's registers; wider heads would spill.
    options = {"num_warps": tile // 16, "maxnreg": 128 if tile == 128 and max(qk, v) <= 64 else None}
    first_qk, rest_qk = _parts(qk)
    first_v, rest_v = _parts(v)
    _attend[(triton.cdiv(queries, tile) * B * H,)](
        query, key, value, None if log_size is None else log_size.contiguous(), out,
        *(stride // step for stride in strides), H, queries, key.shape[2], scale,
        qk, v, first_qk, rest_qk, first_v, rest_v, step, tile, _KEYS,
        num_stages=3, **options,
    )  # fmt: skip
    return out


def _parts(width: int) -> tuple[int, int]:
    """Split a head into tile widths, powers of two of at least 16: one, or 64 and another if that is smaller."""
    if 64 < width <= 96:
        return 64, max(16, triton.next_power_of_2(width - 64))
    return max(16, triton.next_power_of_2(width)), 0


@triton.jit(
    do_not_specialize=[
        "query_image", "query_head", "query_token", "key_image", "key_head", "key_token",
        "value_image", "value_head", "value_token", "heads", "queries", "keys",
    ]
)  # fmt: skip
def _attend(
    query: tl.tensor, key: tl.tensor, value: tl.tensor,
    log_size: tl.tensor | None, out: tl.tensor,
    query_image: int, query_head: int, query_token: int,
    key_image: int, key_head: int, key_token: int,
    value_image: int, value_head: int, value_token: int,
    heads: int, queries: int, keys: int, scale: float,
    QK: tl.constexpr, V: tl.constexpr, FIRST_QK: tl.constexpr, REST_QK: tl.constexpr,
    FIRST_V: tl.constexpr, REST_V: tl.constexpr,
    STEP: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
) -> None:  # fmt: skip
    """Attend with one tile of one head's queries to all keys; strides are in units of STEP elements."""
    tiles = tl.cdiv(queries, QUERIES)
    turn, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    image, head = (turn // heads).to(tl.int64), turn % heads
    query += (image * query_image + head * query_head) * STEP
    key += (image * key_image + head * key_head) * STEP
    value += (image * value_image + head * value_head) * STEP
    row, lane = tile * QUERIES + tl.arange(0, QUERIES), tl.arange(0, KEYS)
    asked = (row < queries)[:, None]
    query += row[:, None] * (query_token * STEP)
    key += lane[None, :] * (key_token * STEP)
    value += lane[:, None] * (value_token * STEP)
    c, d = tl.arange(0, FIRST_QK), tl.arange(0, FIRST_V)
    q = tl.load(query + c[None, :], asked & (c < QK)[None, :], 0.0)
    mixed = tl.zeros((QUERIES, FIRST_V), tl.float32)
    if REST_QK:
        c_rest = FIRST_QK + tl.arange(0, REST_QK)
        q_rest = tl.load(query + c_rest[None, :], asked & (c_rest < QK)[None, :], 0.0)
    if REST_V:
        d_rest = FIRST_V + tl.arange(0, REST_V)
        mixed_rest = tl.zeros((QUERIES, REST_V), tl.float32)
    highest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    exponent = scale * _LOG2E  # exp(x) = exp2(log2(e) * x)
    complete = keys // KEYS * KEYS
    if log_size is not None:
        log_size += image * keys + lane
        following = tl.load(log_size, lane < keys, float("-inf"))
    for LAST in tl.static_range(2):  # only the last tile checks where the keys end
        for start in range(complete if LAST else 0, keys if LAST else complete, KEYS):
            valid = lane < (keys - start if LAST else KEYS)
            k = tl.load(key + c[:, None], valid[None, :] & (c < QK)[:, None], 0.0)
            scores = tl.dot(q, k)
            if REST_QK:
                k_rest = tl.load(key + c_rest[:, None], valid[None, :] & (c_rest < QK)[:, None], 0.0)
                scores = tl.dot(q_rest, k_rest, scores)
            if log_size is not None:
                bias = following * _LOG2E
                following = tl.load(log_size + start + KEYS, lane < keys - start - KEYS, float("-inf"))
                scores = scores * exponent + bias[None, :]
                high = tl.maximum(highest, tl.max(scores, axis=1))
                weight = tl.exp2(scores - high[:, None])
            else:
                if LAST:
                    scores = tl.where(valid[None, :], scores, float("-inf"))
                high = tl.maximum(highest, tl.max(scores, axis=1) * exponent)
                weight = tl.exp2(scores * exponent - high[:, None])
            fade = tl.exp2(highest - high)
            total = total * fade + tl.sum(weight, axis=1)
            highest = high
            weight = weight.to(value.dtype.element_ty)
            values = tl.load(value + d[None, :], valid[:, None] & (d < V)[None, :], 0.0)
            mixed = tl.dot(weight, values, mixed * fade[:, None])
            if REST_V:
                values_rest = tl.load(value + d_rest[None, :], valid[:, None] & (d_rest < V)[None, :], 0.0)
                mixed_rest = tl.dot(weight, values_rest, mixed_rest * fade[:, None])
            key += KEYS * STEP * key_token
            value += KEYS * STEP * value_token
    out += (image * queries * heads + head) * V + row[:, None] * (heads * V)
    share = (1.0 / total)[:, None]
    tl.store(out + d[None, :], (mixed * share).to(out.dtype.element_ty), asked & (d < V)[None, :])
    if REST_V:
        tl.store(out + d_rest[None, :], (mixed_rest * share).to(out.dtype.element_ty), asked & (d_rest < V)[None, :])
