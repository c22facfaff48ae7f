"""What the sum of a latency table's parts misses: fitted to a few whole models.

In a model the weights of a part are warmer or colder than where the part is timed, and every merge passes on a record
of tokens; both show alike in all models of a device.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from raycomp.compress.apply import remerge
from raycomp.evaluate.latency import median_seconds
from raycomp.evaluate.latency_table import NO_FIT, Fit, LatencyTable
from raycomp.merging import METHODS, MergeMethod
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import BlockWidths, Recipe, dense, tokens_removed
from raycomp.settings.training import PolicyConfig
from raycomp.shape import ModelShape

_MODELS = 12  # beside the dense one
_ROUNDS, _WARM_UP = 9, 2
_LEAST_WIDTH = 0.25
_STEP = 8  # of widths, but not of the number of heads

Clock = Callable[[Mapping[int, Callable[[], object]], torch.device, int, int], Mapping[int, float]]


def fitted(
    table: LatencyTable, batch: int, device: torch.device, dtype: torch.dtype, clock: Clock = median_seconds
) -> LatencyTable:
    """Time whole models of random weights, and have the table predict them.

    Args:
        batch: the table's, and so with device and dtype.
        clock: seconds of several runs; see `median_seconds`.
    """
    method = METHODS[table.method].standard(table.shape, PolicyConfig().kind)
    merging = method if "merging" in table.parts else None
    rng = np.random.default_rng(0)
    recipes = [dense(table.shape), *(_drawn(table.shape, rng, merging if i % 3 else None) for i in range(_MODELS))]
    models = [_model(table.shape, recipe).eval().to(device, dtype) for recipe in recipes]
    images = torch.randn(batch, 3, *table.image, device=device, dtype=dtype)
    with torch.inference_mode():
        runs = {i: partial(model, images) for i, model in enumerate(models)}
        seconds = clock(runs, device, _ROUNDS, _WARM_UP)
    parts = replace(table, fit=NO_FIT)
    predicted = np.array([parts.latency_ms(recipe) for recipe in recipes])
    removed = [tokens_removed(table.shape, recipe.merge, table.image)[1] for recipe in recipes]
    merges = np.array([np.count_nonzero(counts) for counts in removed])
    return replace(table, fit=_fit(predicted, merges, 1e3 * np.array([seconds[i] for i in runs])))


def _fit(predicted: np.ndarray, merges: np.ndarray, measured: np.ndarray) -> Fit:
    """Least squares of relative errors."""
    terms = [np.log(predicted), np.ones(len(predicted)), *([merges / predicted] if merges.any() else [])]
    found, *_ = np.linalg.lstsq(np.stack(terms, axis=1), np.log(measured), rcond=None)
    return float(found[0]), float(np.exp(found[1])), float(found[2]) if merges.any() else 0.0


def _drawn(shape: ModelShape, rng: np.random.Generator, merging: MergeMethod | None) -> Recipe:
    """Widths between a quarter and all, some models narrow and some wide; of those that merge, some much.

    Widths are those that spaces offer: multiples of 8 where the dense one is. Others are slow on cards.
    """

    def width(full: int, least: float, step: int) -> int:
        return step * max(1, round(full // step * rng.uniform(least, 1)))

    def channels(full: int, least: float) -> int:
        return width(full, least, 1 if full % _STEP else _STEP)

    least = rng.uniform(_LEAST_WIDTH, 1)
    blocks = []
    for _ in range(shape.depth):
        head = channels(shape.head_dim, least)
        mlp = channels(shape.mlp, least)
        blocks.append(BlockWidths(heads=width(shape.heads, least, 1), qk=head, v=head, mlp=mlp))
    most = rng.uniform(0.05, 0.4)
    merge = None
    if merging is not None:
        merge = merging.with_searched(
            dict(zip(merging.dimensions, rng.uniform(0, most, shape.depth).tolist(), strict=True))
        )
    return Recipe(embed=channels(shape.width, least), blocks=tuple(blocks)).merging(merge)


def _model(shape: ModelShape, recipe: Recipe) -> Segmenter:
    model = Segmenter(shape, recipe)
    remerge(model, recipe)
    return model
