# SPDX-License-Identifier: Apache-2.0
"""Find the widths that suit the hardware: FLOP/s at narrower widths, relative to the full one.

    python benchmarks/widths.py [--device cuda] [--dtype bfloat16]

Times the MLP of a block over its hidden width, all linear layers over the embedding width, and attention over the head
width, near three quarters of the full width. A value of 1 means that all saved FLOPs become speed. The widths take
turns in one run.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
import typer

from raycomp.evaluate.latency import median_seconds
from raycomp.memory import keep_freed_memory

ROUNDS, WARM_UP = 21, 3
MODELS = (
    ("ViT-micro, batch 16", 16 * 257, 128, 512, (64, 257, 32)),
    ("DeiT-B, batch 2", 2 * 1026, 768, 3072, (24, 1026, 64)),
)


def main(
    device: Annotated[str, typer.Option()] = "cpu",
    threads: Annotated[int, typer.Option()] = 1,
    dtype: Annotated[str, typer.Option()] = "float32",
) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    options = {"device": device, "dtype": getattr(torch, dtype)}
    print(f"torch {torch.__version__}, {device}, {dtype}, {threads} thread(s), medians of {ROUNDS}")
    for name, rows, embed, hidden, (heads, tokens, head) in MODELS:
        mlp = {w: partial(_mlp, torch.randn(rows, embed, **options), w) for w in _near(hidden)}
        wide = {w: partial(_mlp, torch.randn(rows, w, **options), hidden) for w in _near(embed)}
        attend = {w: partial(_attention, torch.randn(3, heads, tokens, w, **options)) for w in _near(head)}
        for what, makers in (("MLP width", mlp), ("embedding width", wide), ("head width", attend)):
            with torch.inference_mode():
                times = median_seconds({w: make() for w, make in makers.items()}, torch.device(device), ROUNDS, WARM_UP)
            full = max(times)
            cells = "  ".join(f"{w}: {times[full] / s * w / full:.2f}" for w, s in times.items())
            print(f"{name:20} {what:16} {cells}", flush=True)


def _near(full: int) -> list[int]:
    """Return the full width, three quarters of it, and the latter less 1, 2, 4 and 8."""
    return [full, *(full * 3 // 4 - less for less in (0, 1, 2, 4, 8))]


def _mlp(x: torch.Tensor, hidden: int) -> Callable[[], object]:
    up = torch.nn.Linear(x.shape[-1], hidden, device=x.device, dtype=x.dtype)
    down = torch.nn.Linear(hidden, x.shape[-1], device=x.device, dtype=x.dtype)
    return lambda: down(F.gelu(up(x)))


def _attention(qkv: torch.Tensor) -> Callable[[], object]:
    return lambda: F.scaled_dot_product_attention(*qkv)


if __name__ == "__main__":
    typer.run(main)
