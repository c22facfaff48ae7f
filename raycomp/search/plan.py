"""What a sweep would run and what it takes, before it is started: `raycomp search --dry-run`."""

import math
from dataclasses import dataclass
from functools import partial

import torch

from raycomp.compress.apply import let_merge
from raycomp.config import SweepConfig
from raycomp.context.calibration import default_device
from raycomp.data.corruptions import TYPES
from raycomp.data.evalset import open_checked
from raycomp.data.labelled import absent_in
from raycomp.data.samples import Samples
from raycomp.evaluate.latency import median_seconds
from raycomp.evaluate.miou import anchors
from raycomp.models.policy import Policy
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import dense
from raycomp.results.query import FULL_EVALUATIONS, for_full_evaluation, is_baseline
from raycomp.search.proposer import Proposer
from raycomp.settings.evaluation import StageConfig
from raycomp.settings.model_and_data import DataConfig
from raycomp.shape import ModelShape, enlarged_to

_ROUNDS, _WARM_UP = 3, 1
_TRAINED = 3  # passes that training on an image takes as long as


@dataclass(frozen=True)
class Plan:
    """What is left to run. Hours are of models alone, on one device.

    The proposals, and how many front members are not baselines, are unknown beforehand. The least assumes a front of
    baselines and the cheapest proposals; the most assumes proposals at the limit and a full set of them.
    """

    known: int
    """Recipes that come first."""
    proposed: int
    done: int
    """Trials that are measured already."""
    full: int
    """Evaluations on the full set, at most."""
    full_least: int
    images: int
    """Images to be measured on, each variant by itself, at most."""
    images_least: int
    windows: int
    """Passes that an image takes: windows of the split's first one."""
    trained: int
    """Passes of training, a step forward and backward counted as three."""
    pass_ms: float
    """One pass of the dense model over one window, in batches of the evaluation's size."""
    limit_ms: float
    """One such pass of a recipe at the limit."""
    device: str
    hours: float
    hours_least: float
    warning: str
    """Of classes that no label has; empty for a data set that makes its own."""


def plan(config: SweepConfig, proposer: Proposer) -> Plan:
    """Time the dense model and one at the limit on this device, and count.

    Raises:
        UserError: for data that are not there, too few, or without labels.
    """
    known = [one for one in proposer.first if one.origin == "baseline"]
    whole = len(proposer.first) - len(known)  # the dense model, where it is not measured yet
    proposed = max(0, config.search.trials - proposer.trials_done - len(known))
    searched, full = stage_images(config.evaluation.search), stage_images(config.evaluation.full)
    fine_tuned = config.recovery.steps * config.train.batch * _TRAINED if config.recovery.mode == "finetune" else 0
    samples, device = open_checked(config.data, config.evaluation), default_device()
    windows = _windows(samples, config.data, proposer.space.shape)
    dense_pass, limit_pass = _pass_seconds(config, proposer, device)
    space = proposer.space
    cheapest = space.cost(space.recipe(space.cheapest)) / proposer.dense_cost

    certain, possible = _confirmed(proposer, proposed)
    first = [1.0] * whole + [space.cost(one.recipe) / proposer.dense_cost for one in known]
    passes = searched * windows + fine_tuned
    sure = dense_pass * (passes * sum(first) + full * windows * sum(certain))
    least = sure + dense_pass * passes * proposed * cheapest
    most = sure + limit_pass * (passes * proposed + full * windows * possible)
    trials = len(first) + proposed
    return Plan(
        known=len(known),
        proposed=proposed,
        done=proposer.trials_done,
        full=len(certain) + possible,
        full_least=len(certain),
        images=trials * searched + (len(certain) + possible) * full,
        images_least=trials * searched + len(certain) * full,
        windows=windows,
        trained=trials * fine_tuned,
        pass_ms=1e3 * dense_pass,
        limit_ms=1e3 * limit_pass,
        device=str(device),
        hours=most / 3600,
        hours_least=least / 3600,
        warning=absent_in(samples, config.evaluation.full.clean, config.data.eval_split),
    )


def _confirmed(proposer: Proposer, proposed: int) -> tuple[list[float], int]:
    """Shares of the dense cost of what the full set will certainly be run on, and how many more it may be."""
    measured = for_full_evaluation(proposer.rows.values())
    left = [row for row in measured if ("full", row.recipe_id) not in proposer.rows]
    if not proposer.first and not proposed:
        return [row.cost_share for row in left], 0
    fixed = [row for row in left if row.origin == "reference" or is_baseline(row.label)]
    coming = [one for one in proposer.first if one.origin == "reference" or is_baseline(one.label)]
    shares = [row.cost_share for row in fixed]
    shares += [proposer.space.cost(one.recipe) / proposer.dense_cost for one in coming]
    others = len(left) - len(fixed) + len(proposer.first) - len(coming) + proposed
    return shares, min(FULL_EVALUATIONS, others)


def _pass_seconds(config: SweepConfig, proposer: Proposer, device: torch.device) -> tuple[float, float]:
    """Seconds of the dense model, and of the dearest recipe within the limit, over one window."""
    space, batch, dtype = proposer.space, config.evaluation.batch, getattr(torch, config.evaluation.dtype)
    full = {name: dimension.full for name, dimension in space.dimensions.items()}
    dearest = space.recipe(space.project(full, config.search.budget * proposer.dense_cost))
    models = {name: Segmenter(space.shape, recipe) for name, recipe in (("dense", dense(space.shape)), ("at", dearest))}
    kind = None if dearest.merge is None else dearest.merge.policy_kind
    let_merge(models["at"], dearest, None if kind is None else Policy(kind, space.shape.patch))
    inputs = torch.randn(batch, 3, *space.image, device=device, dtype=dtype)
    for model in models.values():
        model.eval().to(device, dtype)
    with torch.inference_mode():
        runs = {name: partial(model, inputs) for name, model in models.items()}
        seconds = median_seconds(runs, device, _ROUNDS, _WARM_UP)
    return seconds["dense"] / batch, seconds["at"] / batch


def _windows(samples: Samples, data: DataConfig, shape: ModelShape) -> int:
    _, label = samples[0]
    window, stride = data.window_for(shape), data.stride_for(shape)
    sides = zip(enlarged_to(data.scale.of((label.shape[0], label.shape[1])), window), window, strict=True)
    return math.prod(len(anchors(side, length, stride)) for side, length in sides)


def stage_images(stage: StageConfig) -> int:
    """Images that a recipe is measured on."""
    return stage.clean + stage.corrupted * len(TYPES) * len(stage.severities)
