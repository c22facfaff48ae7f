# SPDX-License-Identifier: Apache-2.0
"""Fit a latency table to the times of complete models, drawn from a search space, in the engine that deploys them.

The time of a model is nearly a sum over its kinds of work, each with a cost of at least 0. The costs are those with the
least squares of relative errors, so that fast and slow models count alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from math import gcd

import numpy as np
import torch
from scipy.optimize import nnls

from raycomp.compress.apply import let_merge
from raycomp.deploy.engines import Engine, exported, graph_runs, threads_of_torch, torch_runs
from raycomp.deploy.precision_facts import Precision
from raycomp.devices import device_name
from raycomp.errors import UserError
from raycomp.evaluate.latency import median_seconds, own_clock
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.evaluate.work import KINDS, work
from raycomp.footprint import params
from raycomp.models.policy import Policy
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe, dense
from raycomp.settings.space_and_search import SpaceConfig, WidthRange
from raycomp.shape import ModelShape, Size
from raycomp.space import Space

MODELS = 32
"""Number of models that are timed besides the dense one."""
_TOGETHER = 500_000_000  # parameters of the models in memory at a time, besides the dense one
_ROUNDS = (5, 40)
_SECONDS = 1.0  # of timing for each model, as far as the rounds allow
_WARM_UP = 2
_STEP = 8  # of widths that it divides, as in search spaces; others are slow on GPUs
_LEAST = 0.05  # of the dense GFLOPs: cost of the cheapest drawn recipes

Sources = Mapping[Precision, bytes]
"""ONNX graphs of a model by precision."""
Runs = Mapping[Precision, Callable[[], object]]
Clock = Callable[[Mapping[tuple[int, Precision], Callable[[], object]]], Mapping[tuple[int, Precision], float]]


@dataclass(frozen=True)
class Timing:
    """How models are timed."""

    batch: int
    device: torch.device
    dtype: torch.dtype = torch.float32
    engine: Engine = "torch"
    precisions: tuple[Precision, ...] = ("fp32",)
    threads: int = 1

    @property
    def in_words(self) -> str:
        """Device, engine, batch and threads."""
        dtype = "" if self.dtype == torch.float32 else f" {str(self.dtype).removeprefix('torch.')}"
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.device.type == "cpu" else ""
        engine = f"{self.engine} {version(self.engine)}{dtype}"
        return f"{device_name(self.device)}, {engine}, batch {self.batch}{threads}"


def fitted(
    space: Space, timing: Timing, clock: Clock | None = None, models: int = MODELS, sources: Sequence[Sources] = ()
) -> LatencyTable:
    """Time models of a space with random weights, and fit a latency table to them.

    Args:
        clock: returns the seconds of several runs; default: the fastest of many rounds, by the time of the thread if
            it is alone.
        models: number of models to draw; the dense one is timed as well.
        sources: for onnxruntime, what `exports` returns for the drawn recipes, if it is known already.

    Raises:
        UserError: if the engine cannot run the models.
    """
    if timing.engine == "onnxruntime" and timing.dtype != torch.float32:
        dtype = str(timing.dtype).removeprefix("torch.")
        raise UserError(f"evaluation.dtype {dtype}: search.latency_engine onnxruntime is timed in float32")
    recipes = drawn(space, models)
    counts = np.array([list(work(space.shape, recipe, space.image).values()) for recipe in recipes])
    seconds = timed(space, recipes, timing, clock, sources)
    costs: dict[str, dict[str, float]] = {}
    errors: dict[str, tuple[float, ...]] = {}
    for precision in timing.precisions:
        measured = 1e3 * np.array([seconds[index, precision] for index in range(len(recipes))])
        costs[precision] = dict(zip(KINDS, least_squares(counts, measured).tolist(), strict=True))
        errors[precision] = tuple(left_out(counts, measured).tolist())
    method = space.config.merge if any(recipe.merge for recipe in recipes) else ""
    device, (height, width) = device_name(timing.device), space.image
    setting = f"{timing.in_words}, {height}x{width} px"
    return LatencyTable(space.shape, space.image, method, costs, device, setting, errors)


def exports(space: Space, recipe: Recipe, precisions: Sequence[Precision]) -> Sources:
    """Export a recipe's model with random weights, as it is timed in onnxruntime."""
    return exported(_model(space, recipe), space.image, precisions)


def drawn(space: Space, count: int = MODELS) -> list[Recipe]:
    """Draw recipes of a space, of all costs alike; the first is dense."""
    rng, full = np.random.default_rng(0), space.gflops({})
    recipes = [dense(space.shape), *(space.recipe(space.draw(rng, _LEAST * full)) for _ in range(count))]
    return list({recipe.id: recipe for recipe in recipes}.values())


def widths_alone(shape: ModelShape, image: Size) -> Space:
    """Return a space without merging, whose widths range from a quarter to all of the dense ones."""

    def allowed(full: int, step: int) -> WidthRange:
        return WidthRange(low=full - full * 3 // 4 // step * step, step=step)

    head = allowed(shape.head_dim, gcd(shape.head_dim, _STEP))
    widths = {"embed": shape.width, "mlp": shape.mlp}
    ranges = {name: allowed(full, gcd(full, _STEP)) for name, full in widths.items()}
    config = SpaceConfig(**ranges, heads=allowed(shape.heads, 1), qk=head, v=head, merge_high=0)
    return Space(shape, config, image)


def least_squares(counts: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return the costs of each kind of work (K,), at least 0, with the least squares of relative errors.

    Args:
        counts: (models, K) work of each model.
        measured: (models,) their times.
    """
    scale = counts.max(axis=0)
    scale[scale == 0] = 1.0
    found, _ = nnls(counts / scale / measured[:, None], np.ones(len(measured)))
    return np.asarray(found / scale)


def left_out(counts: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return the relative error of each model's time, predicted by a fit to all others; arguments as above.

    A model alone has none.
    """
    errors = []
    for index in range(len(measured) if len(measured) > 1 else 0):
        others = np.arange(len(measured)) != index
        costs = least_squares(counts[others], measured[others])
        errors.append(abs(counts[index] @ costs / measured[index] - 1))
    return np.array(errors)


def timed(
    space: Space,
    recipes: Sequence[Recipe],
    timing: Timing,
    clock: Clock | None = None,
    sources: Sequence[Sources] = (),
) -> dict[tuple[int, Precision], float]:
    """Time models of recipes with random weights; return seconds by number of the recipe and precision.

    As many models take turns as memory holds. Each group is timed beside the first model, whose time tells how fast the
    machine is meanwhile.

    Args:
        clock, sources: see `fitted`.
    """
    clock = clock or partial(_by_turns, timing)
    images = torch.randn(timing.batch, 3, *space.image).to(timing.device)

    def runs_of(number: int) -> Runs:
        return _runs(space, recipes[number], timing, images, sources[number] if sources else None)

    whole = runs_of(0)
    seconds = dict[tuple[int, Precision], float]()
    for numbers in _groups(space, recipes):
        runs = {0: whole} | {number: runs_of(number) for number in numbers}
        with torch.inference_mode(), threads_of_torch(timing.threads):
            found = clock({(number, name): run for number, each in runs.items() for name, run in each.items()})
        for (number, name), value in found.items():
            seconds[number, name] = value * seconds.get((0, name), found[0, name]) / found[0, name]
    return seconds


def _groups(space: Space, recipes: Sequence[Recipe]) -> list[list[int]]:
    """Return numbers of recipes, all but the first, in groups that memory holds."""
    groups, held = [list[int]()], 0
    for number, recipe in enumerate(recipes[1:], start=1):
        size = params(space.shape, recipe)
        if groups[-1] and held + size > _TOGETHER:
            groups, held = [*groups, []], 0
        groups[-1].append(number)
        held += size
    return groups


def _runs(space: Space, recipe: Recipe, timing: Timing, images: torch.Tensor, sources: Sources | None) -> Runs:
    """Return the runs of a recipe's model on images by precision."""
    if timing.engine == "torch":
        return {"fp32": torch_runs(_model(space, recipe), timing.device, timing.dtype)(images)}
    found = sources or exports(space, recipe, timing.precisions)
    return {name: graph_runs(found[name], timing.device, timing.threads)(images) for name in timing.precisions}


def _model(space: Space, recipe: Recipe) -> Segmenter:
    """Build a recipe's model with random weights."""
    model, merge = Segmenter(space.shape, recipe).eval(), recipe.merge
    policy = Policy(space.policy, space.shape.patch) if merge is not None and merge.needs_policy else None
    let_merge(model, recipe, policy)
    return model


def _by_turns(
    timing: Timing, runs: Mapping[tuple[int, Precision], Callable[[], object]]
) -> dict[tuple[int, Precision], float]:
    """Return the seconds of the fastest round of each run, as other work only adds time; runs take turns."""
    clock = own_clock(timing.device, timing.threads)
    once = median_seconds(runs, timing.device, 1, 1, clock)
    rounds = int(_SECONDS * len(runs) / max(sum(once.values()), 1e-9))
    return median_seconds(runs, timing.device, min(max(rounds, _ROUNDS[0]), _ROUNDS[1]), _WARM_UP, clock, min)
