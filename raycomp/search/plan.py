# SPDX-License-Identifier: Apache-2.0
"""Estimate the trials and the time of a sweep before it starts: `raycomp search --dry-run`."""

import math
from dataclasses import dataclass
from functools import partial

import torch

from raycomp.compress.apply import let_merge
from raycomp.config import SweepConfig
from raycomp.context.calibration import default_device
from raycomp.data.evalset import open_checked
from raycomp.data.labelled import absent_in
from raycomp.data.samples import Samples
from raycomp.evaluate.latency import median_seconds
from raycomp.evaluate.sliding import anchors
from raycomp.models.policy import Policy
from raycomp.models.segmenter import Segmenter
from raycomp.results.query import FULL_EVALUATIONS, for_full_evaluation, is_uniform_baseline
from raycomp.results.row import Row
from raycomp.search.proposal import Proposal
from raycomp.search.proposer import Proposer
from raycomp.search.schedule import stage_images
from raycomp.settings.model_and_data import DataConfig
from raycomp.shape import ModelShape, enlarged_to

_ROUNDS, _WARM_UP = 3, 1
TRAINING_PASSES = 3
"""Forward passes that take as long as training on an image."""


@dataclass(frozen=True)
class Plan:
    """The remaining work, which `raycomp search --dry-run --json` prints. Hours count model time on one device only.

    Lower bounds assume the cheapest proposals and a front of baselines; upper bounds assume proposals at the budget and
    as many full evaluations as allowed.
    """

    baselines: int
    """Baselines, which come first."""
    proposed: int
    """Trials left for proposals; one of them gives several probes."""
    done: int
    """Trials already measured."""
    full: int
    """Maximum number of full evaluations."""
    full_least: int
    images: int
    """Maximum number of images to measure, counting each corrupted variant."""
    images_least: int
    windows: int
    """Passes per image: the windows of the first image of the split."""
    trained: int
    """Training passes; a forward and backward step on an image counts as three."""
    pass_ms: float
    """Milliseconds per window of the dense model, in batches of the evaluation's size."""
    limit_ms: float
    """Milliseconds per window of a recipe at the budget."""
    device: str
    hours: float
    hours_least: float
    warning: str
    """Warning about classes without labels; empty for generated data sets."""


def plan(config: SweepConfig, proposer: Proposer) -> Plan:
    """Time the dense model and a recipe at the budget on this device, and count the remaining trials.

    Raises:
        UserError: If data are missing, too few, or without labels.
    """
    baselines = [proposer.trials_of(one.stage) for one in proposer.first if one.origin == "baseline"]
    proposed = round(max(0.0, config.search.trials - proposer.spent - sum(baselines)))
    searched, full = stage_images(config.evaluation.search), stage_images(config.evaluation.full)
    steps = config.recovery.steps if config.recovery.mode == "finetune" else 0
    fine_tuned = steps * config.train.batch * TRAINING_PASSES
    samples, device = open_checked(config.data, config.evaluation), default_device()
    space = proposer.space
    windows = _windows(samples, config.data, space.shape)
    dense_pass, budget_pass = _pass_seconds(config, proposer, device)

    certain, possible = _full_evaluations(proposer, proposed)
    first = sum(proposer.trials_of(one.stage) * space.cost(one.recipe) for one in proposer.first) / proposer.dense_cost
    cheapest = space.cost(space.recipe(space.cheapest)) / proposer.dense_cost
    passes = searched * windows + fine_tuned
    sure = dense_pass * (passes * first + full * windows * sum(certain))
    low = sure + dense_pass * passes * proposed * cheapest
    high = sure + budget_pass * (passes * proposed + full * windows * possible)
    references = len(proposer.first) - len(baselines)
    trials = round((references + sum(baselines) + proposed) * searched) / searched
    return Plan(
        baselines=len(baselines),
        proposed=proposed,
        done=proposer.trials_done,
        full=len(certain) + possible,
        full_least=len(certain),
        images=round(trials * searched) + (len(certain) + possible) * full,
        images_least=round(trials * searched) + len(certain) * full,
        windows=windows,
        trained=round(trials * fine_tuned),
        pass_ms=1e3 * dense_pass,
        limit_ms=1e3 * budget_pass,
        device=str(device),
        hours=high / 3600,
        hours_least=low / 3600,
        warning=absent_in(samples, config.evaluation.full.clean, config.data.eval_split),
    )


def _full_evaluations(proposer: Proposer, proposed: int) -> tuple[list[float], int]:
    """Return the cost shares of the certain full evaluations, and the maximum number of others."""
    members = for_full_evaluation(proposer.rows.values())
    remaining = [row for row in members if ("full", row.recipe_id) not in proposer.rows]
    if not proposer.first and not proposed:
        return [row.cost_share for row in remaining], 0

    def certain(item: Row | Proposal) -> bool:
        return item.origin == "reference" or is_uniform_baseline(item.label)

    shares = [row.cost_share for row in remaining if certain(row)]
    shares += [proposer.space.cost(one.recipe) / proposer.dense_cost for one in proposer.first if certain(one)]
    others = len(remaining) + len(proposer.first) - len(shares) + proposed
    return shares, min(FULL_EVALUATIONS, others)


def _pass_seconds(config: SweepConfig, proposer: Proposer, device: torch.device) -> tuple[float, float]:
    """Time one window of the dense model and of the most expensive recipe within the budget, in seconds."""
    space, batch, dtype = proposer.space, config.evaluation.batch, getattr(torch, config.evaluation.dtype)
    full = {name: dimension.full for name, dimension in space.dimensions.items()}
    most_expensive = space.recipe(space.project(full, proposer.budget))
    compressed = Segmenter(space.shape, most_expensive)
    kind = None if most_expensive.merge is None else most_expensive.merge.policy_kind
    let_merge(compressed, most_expensive, None if kind is None else Policy(kind, space.shape.patch))
    inputs = torch.randn(batch, 3, *space.image, device=device, dtype=dtype)
    models = {"dense": Segmenter(space.shape, proposer.dense), "budget": compressed}
    runs = {name: partial(model.eval().to(device, dtype), inputs) for name, model in models.items()}
    with torch.inference_mode():
        seconds = median_seconds(runs, device, _ROUNDS, _WARM_UP)
    return seconds["dense"] / batch, seconds["budget"] / batch


def _windows(samples: Samples, data: DataConfig, shape: ModelShape) -> int:
    _, label = samples[0]
    window, stride = data.window_for(shape), data.stride_for(shape)
    sides = zip(enlarged_to(data.scale.of((label.shape[0], label.shape[1])), window), window, strict=True)
    return math.prod(len(anchors(side, length, stride)) for side, length in sides)
