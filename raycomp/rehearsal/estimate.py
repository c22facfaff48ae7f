# SPDX-License-Identifier: Apache-2.0
"""Estimate the hours of the whole path of a search space: training, elastic training, search, refinement."""

from dataclasses import dataclass

from raycomp.config import SweepConfig
from raycomp.results.query import FULL_EVALUATIONS
from raycomp.search.schedule import stage_images


@dataclass(frozen=True)
class Rates:
    """Times on one device, in seconds; None where unknown."""

    train: float | None
    """A training step of the dense model."""
    elastic: float | None
    policy: float | None
    refine: float | None
    """A fine-tuning step of a recipe, by all workers together."""
    window: float | None
    """A window by a recipe at the budget, in batches of `evaluation.batch`."""
    windows: int | None
    """Windows of an image."""


@dataclass(frozen=True)
class Stage:
    """A stage of the path."""

    name: str
    amount: str
    """What it does, in numbers."""
    hours: float | None


def stages(config: SweepConfig, rates: Rates) -> list[Stage]:
    """Return the stages of the path; the search and the refinement are upper bounds."""
    searched, full = (stage_images(stage) for stage in (config.evaluation.search, config.evaluation.full))
    trials, evaluated = config.search.trials, min(FULL_EVALUATIONS, config.search.trials)
    images = trials * searched + evaluated * full
    found = [_training("train", config.train.steps, rates.train)]
    if rates.policy is not None:
        found.append(_training("policy", config.policy.train.steps, rates.policy))
    found.append(_training("elastic", config.elastic.train.steps, rates.elastic))
    amount, hours = f"{trials} trials, {evaluated} full evaluations: {images:,} images", None
    if rates.windows is not None and rates.window is not None:
        amount += f" of {rates.windows} window{'s' if rates.windows > 1 else ''}"
        hours = images * rates.windows * rates.window / 3600
    found.append(Stage("search", amount, hours))
    found.append(_training("refine", config.refine.train.steps, rates.refine, " for each recipe and seed"))
    return found


def _training(name: str, steps: int, seconds: float | None, each: str = "") -> Stage:
    return Stage(name, f"{steps:,} steps{each}", None if seconds is None else steps * seconds / 3600)
