# SPDX-License-Identifier: Apache-2.0
"""Estimate the time of a DeiT-B forward pass at 512 px on a GPU from its FLOPs and bytes.

    python benchmarks/gpu_estimate.py [--tflops 777] [--tb-per-s 4.25] [--batch 32]

Bytes are what all layers read and write in bfloat16 without fusion, excluding weights and the merge step. The rates
were measured by `benchmarks/gpu.py`.
"""

from typing import Annotated

import typer

from gpu_steps.models import recipes
from raycomp.flops import decoder_widths, gflops
from raycomp.recipe import BlockWidths, Recipe, tokens_removed
from raycomp.shape import ModelShape, deit_base_distilled

_BYTES = 2  # per number


def main(
    tflops: Annotated[float, typer.Option()] = 777.0,
    tb_per_s: Annotated[float, typer.Option()] = 4.25,
    batch: Annotated[int, typer.Option()] = 32,
) -> None:
    shape = deit_base_distilled((512, 512), 150)
    print(f"{'recipe':32}{'TFLOP':>8}{'ms':>7}{'GB':>8}{'ms':>7}{'sum, ms':>9}")
    for name, recipe in recipes(shape).items():
        work = 2e-3 * gflops(shape, recipe) * batch  # a multiply-add is two operations
        moved = 1e-9 * _BYTES * numbers(shape, recipe) * batch
        busy, waiting = 1e3 * work / tflops, moved / tb_per_s
        print(f"{name:32}{work:8.2f}{busy:7.1f}{moved:8.1f}{waiting:7.1f}{busy + waiting:9.1f}")


def numbers(shape: ModelShape, recipe: Recipe) -> int:
    """Count the activations that the forward pass of one image reads and writes."""
    rows, columns = shape.grid()
    tokens, total = shape.prefix + rows * columns, 0
    _, removed = tokens_removed(shape, recipe.merge)
    for widths, merged in zip(recipe.blocks, removed, strict=True):
        total += tokens * _attention(recipe.embed, widths)
        tokens -= merged
        total += tokens * _mlp(recipe.embed, widths.mlp)
    widths = decoder_widths(shape, recipe.embed)
    each = _attention(recipe.embed, widths) + _mlp(recipe.embed, widths.mlp)
    return total + shape.decoder_depth * (tokens - shape.prefix + shape.classes) * each


def _attention(embed: int, widths: BlockWidths) -> int:
    """Count per token: norm, projection to q, k and v, attention, projection back, residual."""
    qkv, out = widths.heads * (2 * widths.qk + widths.v), widths.heads * widths.v
    return 2 * embed + (embed + qkv) + (qkv + out) + (out + embed) + 3 * embed


def _mlp(embed: int, hidden: int) -> int:
    """Count per token: norm, first layer, activation, second layer, residual."""
    return 2 * embed + (embed + hidden) + 2 * hidden + (hidden + embed) + 3 * embed


if __name__ == "__main__":
    typer.run(main)
