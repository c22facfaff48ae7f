# SPDX-License-Identifier: Apache-2.0
"""Time one merging transformer block against a direct implementation of the published algorithm.

    python benchmarks/merge_step.py [--device cuda] [--dtype bfloat16] [--threads 2]

The direct implementation materialises the attention scores with log(size) added, computes the cosine of every pair,
and makes two scatter passes over gathered tokens, one for values and one for sizes. Prints the speed-up of the block
and of the merge step alone, and the tokens per second of the merging block relative to the dense one; all variants
take turns in one run. `at most` is the speed-up of a block that computes only its products, each as fast as the first
of the MLP, and reads and writes its tokens once at the speed of a copy (see `least`). On a CUDA device
`raycomp.kernels` runs the merge step; `by kernels` is its speed-up over plain torch.
"""

import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Annotated, cast

import torch
import typer
from torch import Tensor

from raycomp import kernels
from raycomp.evaluate.latency import median_seconds
from raycomp.memory import keep_freed_memory
from raycomp.merging import ToMe
from raycomp.merging.base import merged_pairs
from raycomp.merging.tokens import Tokens, best_partners, match, merge, pair_positions
from raycomp.models.block import Attention, Block, PlainMlp
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import dense
from raycomp.shape import ModelShape, deit_base_distilled, vit

ROUNDS, WARM_UP = 9, 2


def straight_attention(attention: Attention, x: Tensor, log_size: Tensor) -> tuple[Tensor, Tensor]:
    """Compute scores, mask and softmax one after the other."""
    B, N, _ = x.shape
    query, key, value = attention.qkv(x).view(B, N, 3, attention.heads, -1).permute(2, 0, 3, 1, 4)
    scores = attention.scale * query @ key.transpose(-2, -1) + log_size[:, None, None, :].to(x.dtype)
    return attention.proj((scores.softmax(-1) @ value).transpose(1, 2).reshape(B, N, -1)), key


def straight_merge(x: Tensor, keys: Tensor, size: Tensor, r: int, prefix: int) -> tuple[Tensor, Tensor]:
    """Pair tokens by cosine, then gather and scatter tokens (B, N, E) and sizes (B, N)."""
    metric = keys.mean(1)
    metric = metric / metric.norm(dim=-1, keepdim=True)
    scores = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)
    scores[:, : (prefix + 1) // 2], scores[:, :, : prefix // 2] = -torch.inf, -torch.inf
    best, partner = scores.max(-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    merged, stays = order[:, :r], order[:, r:].sort(dim=-1).values
    into = partner.gather(1, merged)

    def scattered(values: Tensor) -> Tensor:
        sources, destinations = values[:, ::2], values[:, 1::2]
        wide = values.shape[-1]
        moved = sources.gather(1, merged[..., None].expand(-1, -1, wide))
        summed = destinations.scatter_reduce(1, into[..., None].expand(-1, -1, wide), moved, "sum")
        return torch.cat([sources.gather(1, stays[..., None].expand(-1, -1, wide)), summed], dim=1)

    sizes = scattered(size[..., None])
    return (scattered(x * size[..., None]) / sizes).to(x.dtype), sizes[..., 0]


def main(
    device: Annotated[str, typer.Option()] = "cpu",
    threads: Annotated[int, typer.Option()] = 2,
    dtype: Annotated[str, typer.Option()] = "float32",
    batch: Annotated[int, typer.Option()] = 16,
) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    cases: list[tuple[str, ModelShape, float]] = [
        ("ViT-micro 128 px, r = 26", ModelShape(
            width=128, heads=4, depth=8, patch=8, image=(128, 128), classes=11, decoder_depth=1
        ), 26 / 256),
        ("ViT-S/16 512 px, r = 95", vit("small", (512, 512), 150), 95 / 1024),
        ("DeiT-B/16 512 px, r = 95", deit_base_distilled((512, 512), 150), 95 / 1024),
        ("DeiT-B/16 512 px, half", deit_base_distilled((512, 512), 150), 0.5),
    ]  # fmt: skip
    print(f"torch {torch.__version__}, {device}, {dtype}, {threads} thread(s), batch {batch}, medians of {ROUNDS}")
    print(f"{'second block of':28}{'block':>8}{'at most':>9}{'merge step':>12}{'by kernels':>12}", end="")
    print(f"{'tokens/s, merging / dense':>28}")
    for name, shape, ratio in cases:
        times = measured(shape, ratio, batch, torch.device(device), getattr(torch, dtype))
        block = times["straight"] / times["block"]
        most = times["straight"] / times["least"]
        step = times["straight step"] / times["step"]
        fused = times.get("plain step", times["step"]) / times["step"]
        relative = times["dense"] / times["block"]
        print(f"{name:28}{block:7.2f}x{most:8.2f}x{step:11.2f}x{fused:11.2f}x{relative:27.2f}x", flush=True)


@torch.inference_mode()
def measured(shape: ModelShape, ratio: float, batch: int, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Return the seconds of each variant; the inputs are those of a second block, whose tokens have sizes."""
    torch.manual_seed(0)
    model = Segmenter(shape, dense(shape)).to(device, dtype).eval()
    block = cast("Block", model.encoder.blocks[1])
    assert block.attn is not None
    assert block.norm1 is not None
    assert block.mlp is not None
    assert block.norm2 is not None
    attention, norm1, mlp, norm2 = block.attn, block.norm1, block.mlp, block.norm2
    merging = ToMe(ratios=(ratio,) * shape.depth)
    rows, columns = shape.grid(shape.image)
    patches = rows * columns
    N = shape.prefix + patches
    x = torch.randn(batch, N, shape.width, device=device, dtype=dtype)
    size = torch.randint(1, 4, (batch, N), device=device).float()
    tokens = Tokens(size=size, source=torch.arange(shape.prefix, N, device=device).expand(batch, -1))
    r = merged_pairs(ratio, patches)
    keys = torch.randn(batch, shape.heads, N, shape.head_dim, device=device, dtype=dtype)

    def straight() -> Tensor:
        out, keys = straight_attention(attention, norm1(x), size.log())
        merged, _ = straight_merge(x + out, keys, size, r, shape.prefix)
        return merged + mlp(norm2(merged))

    def ours() -> Tensor:
        out, keys = block.attend(x, tokens.size.log())
        return block.feed(merging.merge(1, out, keys, tokens, (rows, columns), shape.prefix)[0])

    def plain() -> Tensor:
        return block.feed(block.attend(x)[0])

    def plain_step() -> None:
        usable, kernels.usable = kernels.usable, lambda *_: False
        try:
            merging.merge(1, x, keys, tokens, (rows, columns), shape.prefix)
        finally:
            kernels.usable = usable

    steps: dict[str, Callable[[], object]] = {
        "straight": straight,
        "block": ours,
        "dense": plain,
        "straight step": partial(straight_merge, x, keys, size, r, shape.prefix),
        "step": partial(merging.merge, 1, x, keys, tokens, (rows, columns), shape.prefix),
    }
    if kernels.usable(x):
        steps["plain step"] = plain_step
    assert isinstance(mlp, PlainMlp)
    steps |= {"product": partial(mlp.fc1, x), "copy": x.clone}
    check(block, x, tokens, r, shape.prefix)
    check_kernels(x, keys, size, r, shape.prefix)
    # On one CPU thread, waiting does not count.
    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    times = median_seconds(steps, device, ROUNDS, WARM_UP, clock)
    return times | {"least": least(x, r, shape, times["product"], times["copy"])}


def least(x: Tensor, r: int, shape: ModelShape, product: float, copy: float) -> float:
    """Return the seconds of a merging block that only multiplies, and reads and writes tokens (B, N, E) once.

    Args:
        product: seconds of the first product of the MLP, on all tokens.
        copy: seconds of a copy of the tokens.
    """
    (_, N, E), hidden = x.shape, shape.mlp
    attention = 4 * N * E * E + 2 * N * N * E  # multiply-adds
    pairs = ((N + 1) // 2) * (N // 2) * shape.head_dim
    mlp = 2 * (N - r) * E * hidden
    return (attention + pairs + mlp) / (N * E * hidden) * product + (2 * N - r) / (2 * N) * copy


def check(block: Block, x: Tensor, tokens: Tokens, r: int, prefix: int) -> None:
    """Check that both implementations agree up to rounding, which in double precision changes no pair."""
    exact, x, size = deepcopy(block).double(), x[:2].double(), tokens.size[:2]
    assert exact.attn is not None
    assert exact.norm1 is not None
    out, keys = straight_attention(exact.attn, exact.norm1(x), size.log())
    ours, our_keys = exact.attn(exact.norm1(x), size.log())
    torch.testing.assert_close(ours, out)
    merged, sizes = straight_merge(x + out, keys, size, r, prefix)
    ours, our_sizes = merge(x + out, size, match(our_keys.mean(1), r, prefix), x.shape[1] - r)
    if prefix == 2:  # the direct implementation puts the second special token before the other destinations
        second = merged.shape[1] - x.shape[1] // 2
        order = [0, second, *(i for i in range(1, merged.shape[1]) if i != second)]
        merged, sizes = merged[:, order], sizes[:, order]
    torch.testing.assert_close(ours, merged)
    torch.testing.assert_close(our_sizes, sizes)


def check_kernels(x: Tensor, keys: Tensor, size: Tensor, r: int, prefix: int) -> None:
    """Check the timed step, in its precision, against plain torch in double precision."""
    N, eps = x.shape[1], torch.finfo(x.dtype).eps
    best, partner = best_partners(keys, prefix)
    exact, theirs = best_partners(keys.mean(1).double(), prefix)
    torch.testing.assert_close(best.double(), exact, rtol=0, atol=4 * eps)
    assert (partner == theirs).double().mean() > 0.99, "partners differ where scores do not tie"
    index = pair_positions(best, partner, r, N, prefix)
    assert torch.equal(index, pair_positions(best.double(), partner, r, N, prefix))
    merged, sizes = merge(x, size, index, N - r)
    means, totals = merge(x.double(), size.double(), index, N - r)
    torch.testing.assert_close(merged.double(), means, rtol=eps, atol=4 * eps)
    assert torch.equal(sizes.double(), totals)


if __name__ == "__main__":
    typer.run(main)
