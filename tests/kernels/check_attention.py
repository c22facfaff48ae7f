# SPDX-License-Identifier: Apache-2.0
"""Attention by the kernel; `test_kernels` runs this file."""

import numpy as np
import pytest
import torch
from torch import Tensor

from raycomp.kernels import attention
from tests.kernels.conftest import DEVICE

pytestmark = pytest.mark.usefixtures("bfloat16_products")

EPS = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""Half a unit in the last place: of each weight, and of what comes out."""


def projected(
    rng: np.random.Generator, images: int, heads: int, tokens: int, qk: int, v: int, dtype: torch.dtype
) -> list[Tensor]:
    """Queries, keys and values as views of what a qkv projection gives."""
    B, H, N = images, heads, tokens
    qkv = torch.from_numpy(rng.standard_normal((B, N, H * (2 * qk + v)))).to(dtype).to(DEVICE)
    return [part.view(B, N, H, -1).transpose(1, 2) for part in qkv.split((H * qk, H * qk, H * v), dim=-1)]


def brute_force(query: Tensor, key: Tensor, value: Tensor, log_size: Tensor | None, scale: float) -> np.ndarray:
    q, k, v = (x.double().cpu().numpy() for x in (query, key, value))
    B, H, N, _ = q.shape
    out = np.zeros((B, N, H, v.shape[3]))
    for image in range(B):
        size = 1.0 if log_size is None else np.exp(log_size[image].double().cpu().numpy())
        for head in range(H):
            for token in range(N):
                weight = np.exp(scale * (k[image, head] @ q[image, head, token])) * size
                out[image, token, head] = weight @ v[image, head] / weight.sum()
    return out.reshape(B, N, -1)


def check(query: Tensor, key: Tensor, value: Tensor, log_size: Tensor | None, scale: float) -> None:
    out = attention.attend(query, key, value, log_size, scale)
    assert out.dtype == query.dtype
    assert out.is_contiguous()
    bound = 2 * EPS[query.dtype] * float(value.abs().max())  # the weights add up to 1
    np.testing.assert_allclose(out.float().cpu(), brute_force(query, key, value, log_size, scale), rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("tokens", "qk", "v"),
    [(1, 16, 16), (5, 64, 64), (64, 64, 64), (66, 20, 12), (129, 64, 24), (131, 40, 56), (197, 72, 72), (70, 96, 128)],
)
def test_attention_equals_float64_brute_force(tokens, qk, v, biased, dtype, rng):
    query, key, value = projected(rng, 2, 3, tokens, qk, v, dtype)
    log_size = torch.from_numpy(rng.integers(1, 30, (2, tokens))).float().log().to(DEVICE) if biased else None
    check(query, key, value, log_size, qk**-0.5)


def test_enough_heads_for_larger_tiles(rng):
    query, key, value = projected(rng, 11, 12, 130, 16, 8, torch.bfloat16)
    check(query, key, value, None, 0.25)


@pytest.mark.parametrize("shift", [-300.0, 300.0])
def test_scores_whose_exponentials_leave_float32(shift, rng):
    query, key, value = projected(rng, 1, 2, 67, 24, 24, torch.bfloat16)
    query = torch.cat([query, torch.ones_like(query[..., :8])], dim=-1)
    key = torch.cat([key, torch.full_like(key[..., :8], shift / 8)], dim=-1)
    out = attention.attend(query, key, value, None, 1.0)
    wanted = brute_force(query[..., :24], key[..., :24], value, None, 1.0)  # softmax forgets a shift
    np.testing.assert_allclose(out.float().cpu(), wanted, rtol=0, atol=4e-2)


def test_other_queries_than_keys_and_strides(rng):
    query = torch.from_numpy(rng.standard_normal((2, 3, 32, 9))).half().to(DEVICE).transpose(2, 3)  # channels apart
    key = torch.from_numpy(rng.standard_normal((33, 2, 3, 64))).half().to(DEVICE).permute(1, 2, 0, 3)[..., 3:35]
    value = torch.from_numpy(rng.standard_normal((2, 1, 33, 17))).half().to(DEVICE).expand(-1, 3, -1, -1)
    log_size = torch.from_numpy(rng.standard_normal((33, 2))).float().to(DEVICE).T
    check(query, key, value, log_size, 0.2)
