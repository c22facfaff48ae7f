# SPDX-License-Identifier: Apache-2.0
"""Calibrate a latency table on a few complete models.

The sum of the parts misses two effects: the weights of a part are more or less cached in a model than when timed alone,
and every merge passes on a token record. Both are similar in all models on a device.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from raycomp.compress.apply import remerge
from raycomp.evaluate.latency import median_seconds
from raycomp.evaluate.latency_table import NO_FIT, Fit, LatencyTable, calibrated
from raycomp.merging import METHODS, MergeMethod
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import BlockWidths, Recipe, dense, tokens_removed
from raycomp.settings.training import PolicyConfig
from raycomp.shape import ModelShape

_MODELS = 12  # besides the dense model
_ROUNDS, _WARM_UP = 9, 2
_MIN_WIDTH = 0.25
_STEP = 8  # of all widths except the number of heads

Clock = Callable[[Mapping[int, Callable[[], object]], torch.device, int, int], Mapping[int, float]]


def fitted(
    table: LatencyTable, batch: int, device: torch.device, dtype: torch.dtype, clock: Clock = median_seconds
) -> LatencyTable:
    """Time complete models with random weights, and fit the table to them.

    Args:
        batch, device, dtype: those of the table.
        clock: returns the seconds of several runs; see `median_seconds`.
    """
    method = METHODS[table.method].standard(table.shape, PolicyConfig().kind)
    merging = method if "merging" in table.parts else None
    rng = np.random.default_rng(0)
    recipes = [dense(table.shape), *(_drawn(table.shape, rng, merging if i % 3 else None) for i in range(_MODELS))]
    models = [Segmenter(table.shape, recipe).eval().to(device, dtype) for recipe in recipes]
    for model, recipe in zip(models, recipes, strict=True):
        remerge(model, recipe)
    images = torch.randn(batch, 3, *table.image, device=device, dtype=dtype)
    with torch.inference_mode():
        runs = {i: partial(model, images) for i, model in enumerate(models)}
        seconds = clock(runs, device, _ROUNDS, _WARM_UP)
    parts = replace(table, fit=NO_FIT)
    predicted = np.array([parts.latency_ms(recipe) for recipe in recipes])
    removed = [tokens_removed(table.shape, recipe.merge, table.image)[1] for recipe in recipes]
    merges = np.array([np.count_nonzero(counts) for counts in removed])
    measured = 1e3 * np.array([seconds[i] for i in runs])
    return replace(
        table, fit=_fit(predicted, merges, measured), errors=tuple(left_out(predicted, merges, measured).tolist())
    )


def left_out(parts: np.ndarray, merges: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return the relative error of each model's time, predicted by a fit to all others.

    Args:
        parts: milliseconds of each model's parts.
        merges: number of its blocks that merge.
        measured: its milliseconds.
    """
    errors = []
    for index in range(len(parts)):
        others = np.arange(len(parts)) != index
        fit = _fit(parts[others], merges[others], measured[others])
        errors.append(abs(calibrated(fit, parts[index], merges[index]) / measured[index] - 1))
    return np.array(errors)


def _fit(predicted: np.ndarray, merges: np.ndarray, measured: np.ndarray) -> Fit:
    """Fit by least squares of relative errors."""
    terms = [np.log(predicted), np.ones(len(predicted)), *([merges / predicted] if merges.any() else [])]
    solution, *_ = np.linalg.lstsq(np.stack(terms, axis=1), np.log(measured), rcond=None)
    return float(solution[0]), float(np.exp(solution[1])), float(solution[2]) if merges.any() else 0.0


def _drawn(shape: ModelShape, rng: np.random.Generator, merging: MergeMethod | None) -> Recipe:
    """Draw a recipe with widths between a quarter and all of the dense ones, and light to heavy merging.

    As in search spaces, widths are multiples of 8 where the dense width is; other widths are slow on GPUs.
    """

    low = rng.uniform(_MIN_WIDTH, 1)

    def width(full: int, step: int) -> int:
        return step * max(1, round(full // step * rng.uniform(low, 1)))

    def channels(full: int) -> int:
        return width(full, 1 if full % _STEP else _STEP)

    blocks = []
    for _ in range(shape.depth):
        head, mlp = channels(shape.head_dim), channels(shape.mlp)
        blocks.append(BlockWidths(heads=width(shape.heads, 1), qk=head, v=head, mlp=mlp))
    high = rng.uniform(0.05, 0.4)
    merge = None
    if merging is not None:
        ratios = rng.uniform(0, high, shape.depth).tolist()
        merge = merging.with_searched(dict(zip(merging.dimensions, ratios, strict=True)))
    return Recipe(embed=channels(shape.width), blocks=tuple(blocks)).merging(merge)
