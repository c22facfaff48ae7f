# SPDX-License-Identifier: Apache-2.0
"""Compare two ways to add log(size) to proportional attention: an additive bias and an extra channel.

    python benchmarks/attention.py [--device cuda]

Prints the median time of each variant relative to attention without sizes. The variants take turns in one run, so
that a change in the machine's speed affects them all.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from raycomp.evaluate.latency import median_seconds

# batch, heads, tokens, head width: ViT-micro dense and merged, DeiT-B at 512 px
CASES = ((32, 4, 257, 32), (32, 4, 161, 32), (8, 12, 1026, 64), (8, 12, 513, 64))
ROUNDS = 15


def plain(q: Tensor, k: Tensor, v: Tensor, log_size: Tensor) -> Tensor:
    del log_size
    return F.scaled_dot_product_attention(q, k, v)


def bias(q: Tensor, k: Tensor, v: Tensor, log_size: Tensor) -> Tensor:
    """Add a mask that is broadcast over heads and queries and never materialised."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=log_size[:, None, None, :])


def channel(q: Tensor, k: Tensor, v: Tensor, log_size: Tensor) -> Tensor:
    """Compute q . k + 1 * log s with one more channel; all three are padded to the next multiple of 8."""
    width, scale = q.shape[-1], q.shape[-1] ** -0.5
    one = torch.full_like(q[..., :1], 1 / scale)
    size = log_size[:, None, :, None].expand_as(k[..., :1])
    query, key = (F.pad(torch.cat(pair, dim=-1), (0, 7)) for pair in ((q, one), (k, size)))
    return F.scaled_dot_product_attention(query, key, F.pad(v, (0, 8)), scale=scale)[..., :width]


def main(device: Annotated[str, typer.Option()] = "cpu", threads: Annotated[int, typer.Option()] = 1) -> None:
    torch.set_num_threads(threads)
    variants: tuple[Callable[..., Tensor], ...] = (plain, bias, channel)
    print(f"torch {torch.__version__}, {device}, {threads} thread(s); time relative to plain attention")
    for dtype in (torch.float32, torch.bfloat16):
        for batch, heads, tokens, width in CASES:
            q, k, v = (
                torch.randn(batch, tokens, heads, width, device=device, dtype=dtype).transpose(1, 2) for _ in "qkv"
            )
            log_size = torch.rand(batch, tokens, device=device).mul(3).to(dtype)
            torch.testing.assert_close(bias(q, k, v, log_size), channel(q, k, v, log_size), rtol=0.05, atol=0.05)
            runs = {variant.__name__: partial(variant, q, k, v, log_size) for variant in variants}
            with torch.inference_mode():
                times = median_seconds(runs, torch.device(device), ROUNDS, warm_up=0)
            ratios = "  ".join(f"{name} {seconds / times['plain']:.2f}" for name, seconds in times.items())
            print(f"{dtype!s:15} {batch}x{heads}x{tokens}x{width}: {ratios}")


if __name__ == "__main__":
    typer.run(main)
