# SPDX-License-Identifier: Apache-2.0
"""Attention kernels: which runs, what a new shape costs at its first call, and what narrow heads save."""

import time
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from gpu_steps.notes import Notes, Setting
from raycomp.evaluate.latency import median_seconds

_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def run(setting: Setting, notes: Notes) -> None:
    shape = setting.design
    batch, heads, tokens = setting.batch, shape.heads, 2 + shape.grid()[0] * shape.grid()[1]
    if setting.name == "cuda":
        for on in (False, True):
            torch.backends.cuda.enable_cudnn_sdp(on)
            offset = 100 if on else 0  # shapes that were not seen before
            times = [
                _first_call(setting, heads, tokens // 2 + offset + 3 * i, bias) for i in range(8) for bias in (0, 1)
            ]
            notes.put(**{f"first_call_ms_{'with' if on else 'without'}_cudnn": _first_figures(times)})
        torch.backends.cuda.enable_cudnn_sdp(False)
    found: dict[str, Any] = {}
    for n in (tokens, tokens // 2, tokens // 4):
        for width in (shape.head_dim, 56, 48, 40):
            for biased in (False, True):
                if biased and width != shape.head_dim:
                    continue
                q, k, v, bias = _inputs(setting, batch, heads, n, width)
                mask = bias if biased else None
                case = f"{n} tokens, {width} wide{', bias' if biased else ''}"
                found[case] = _timed(setting, q, k, v, mask)
                notes.put(attention=found)


def _inputs(setting: Setting, batch: int, heads: int, n: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v = (
        torch.randn(batch, n, heads, width, device=setting.device, dtype=setting.dtype).transpose(1, 2) for _ in "qkv"
    )
    return q, k, v, torch.rand(batch, 1, 1, n, device=setting.device, dtype=setting.dtype)


def _first_call(setting: Setting, heads: int, n: int, biased: int) -> tuple[float, float]:
    """Milliseconds of the first and of the second call at a new shape."""
    q, k, v, bias = _inputs(setting, setting.batch, heads, n, 64)
    found = []
    for _ in range(2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        F.scaled_dot_product_attention(q, k, v, bias if biased else None)
        torch.cuda.synchronize()
        found.append(1e3 * (time.perf_counter() - began))
    return found[0], found[1]


def _first_figures(times: list[tuple[float, float]]) -> dict[str, float]:
    """Of calls after the very first, which loads libraries."""
    first, second = (sorted(pair[i] for pair in times[2:]) for i in (0, 1))
    return {"median": first[len(first) // 2], "most": first[-1], "second_call": second[len(second) // 2]}


def _timed(setting: Setting, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> dict[str, Any]:
    """Milliseconds by default and with each kernel alone, and the name of the kernel that runs by default."""
    attend = partial(F.scaled_dot_product_attention, q, k, v, bias)
    found: dict[str, Any] = {"default": 1e3 * median_seconds({"": attend}, setting.device, 10, 3)[""]}
    if setting.name == "cpu":
        return found
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        attend()
        torch.cuda.synchronize()
    longest = max(profiled.key_averages(), key=lambda event: event.device_time_total, default=None)
    found["kernel"] = "" if longest is None else longest.key[:80]
    from raycomp.kernels.attention import attend as fused

    log_size = None if bias is None else bias[:, 0, 0]
    ours = partial(fused, q, k, v, log_size, q.shape[-1] ** -0.5)
    found["fused"] = 1e3 * median_seconds({"": ours}, setting.device, 10, 3)[""]
    found["error"], found["fused_error"] = _errors(q, k, v, bias, attend(), ours())
    for name, backend in _BACKENDS.items():
        try:
            with sdpa_kernel(backend):
                found[name] = 1e3 * median_seconds({"": attend}, setting.device, 10, 3)[""]
        except RuntimeError as error:
            found[name] = str(error).partition("\n")[0][:80]
    return found


def _errors(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *found: Tensor) -> list[float]:
    """Relative errors of outputs (B, H, N, w), or (B, N, H * w), of the first two images against float64."""
    query, key, value = (part[:2].double() for part in (q, k, v))
    wanted = F.scaled_dot_product_attention(query, key, value, None if bias is None else bias[:2].double())
    rows = wanted.transpose(1, 2).flatten(2)
    outs = (out[:2] if out.dim() == 3 else out[:2].transpose(1, 2).flatten(2) for out in found)
    return [float((out.double() - rows).norm() / rows.norm()) for out in outs]
