# SPDX-License-Identifier: Apache-2.0
"""Measure what merging costs a model with rotary position, for two positions of a merged token.

    python jobs/train.py --space rotary.yaml --out rotary.safetensors    # a space with shape.position rotary
    python benchmarks/rotary.py --space rotary.yaml [--space OTHER ...]

ToMe merges the same share in every block. A merged token is at the mean position of its patches, as in raycomp, or at
the position of the first. A further space, of a model with learned positions, shows the cost of merging without rotary
position.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated
from unittest import mock

import numpy as np
import torch
import typer
from torch import Tensor

from raycomp.compress.apply import compress
from raycomp.config import load
from raycomp.context.calibration import default_device
from raycomp.context.preparation import prepare_context
from raycomp.context.sweep_context import SweepContext
from raycomp.evaluate.measure import measure
from raycomp.flops import gflops
from raycomp.merging.tokens import Tokens, first_of_each, token_places
from raycomp.merging.tome import ToMe
from raycomp.models import encoder
from raycomp.recipe import dense

Places = Callable[[Tensor, Tokens], Tensor]


def main(
    space: Annotated[list[Path], typer.Option(help="Search space of a trained model; may be repeated.")],
    ratios: Annotated[str, typer.Option(help="Shares of the tokens merged in every block, in %.")] = "0,5,10,15,20",
) -> None:
    torch.set_num_threads(1)
    shares = [float(part) / 100 for part in ratios.split(",")]
    print("| model | position | merged in every block | of the dense GFLOPs | clean mIoU | corrupted mIoU |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for path in space:
        context = prepare_context(load(path).changed("recovery", mode="none"), lambda _: None)
        rotary = context.shape.position == "rotary"
        variants: dict[str, Places] = {"mean": token_places, "first": _first} if rotary else {"": _first}
        for variant, places in variants.items():
            with mock.patch.object(encoder, "token_places", places):
                for share in shares:
                    if share or variant != "first":  # without merging, both are the same
                        _print(context, path.stem, variant, share)


def _print(context: SweepContext, name: str, variant: str, share: float) -> None:
    recipe, config = dense(context.shape), context.config
    if share:
        recipe = recipe.merging(ToMe(ratios=(share,) * context.shape.depth))
    metrics = measure(
        compress(context.model, recipe, None), context.evalset, "search", config.evaluation, config.data,
        default_device(), timed=False,
    )  # fmt: skip
    cost = gflops(context.shape, recipe) / gflops(context.shape, dense(context.shape))
    cells = (
        name,
        variant,
        f"{share:.0%}",
        f"{cost:.0%}",
        f"{metrics.clean_miou:.4f}",
        f"{np.nanmean(metrics.corrupted):.4f}",
    )
    print("| " + " | ".join(cells) + " |", flush=True)


def _first(places: Tensor, tokens: Tokens) -> Tensor:
    """Return the position of the first patch of each token (B, N, 2); (0, 0) for special tokens."""
    special = int(tokens.source.min())
    patch = first_of_each(tokens.source - special, tokens.size.shape[1] - special)
    return torch.cat([places.new_zeros(len(patch), special, 2), places[patch]], dim=1)


if __name__ == "__main__":
    typer.run(main)
