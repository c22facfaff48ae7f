# SPDX-License-Identifier: Apache-2.0
"""The jobs of a rehearsal, and their settings: models, batches and images as in the search space, but few of each."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycomp.config import SweepConfig
from raycomp.merging import METHODS

STEPS = 2
"""Steps of each training; the first includes what is done only once."""
_TRIALS = 2
_SCENES = 64  # training images of a data set that generates them
SPACE, SWEEP = "space.yaml", "rehearsal"
"""File of the search space, and name of the sweep."""
DENSE, ELASTIC, POLICY = "dense.safetensors", "elastic.safetensors", "policy.safetensors"
RECIPE = "RECIPE"
"""Stands for the recipe that the search found, in the arguments of a job."""


@dataclass(frozen=True)
class Job:
    """A command of the rehearsal."""

    name: str
    arguments: tuple[str, ...]
    """Arguments of `raycomp`."""
    after: tuple[str, ...] = ()
    """Names of the jobs whose results it needs."""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "raycomp", *self.arguments]


def smallest(config: SweepConfig, folder: Path, split: str | None, random_weights: bool) -> SweepConfig:
    """Return the settings of the rehearsal, whose checkpoints are in `folder`.

    Args:
        split: Split of the data for everything; None keeps the splits of the search space.
        random_weights: Whether training starts from random weights instead of pretrained ones.
    """
    data = config.model_dump()
    short: dict[str, Any] = {"steps": STEPS, "warmup": 0, "eval_images": 1}
    if config.data.dataset == "streetscenes":
        short["images"] = _SCENES
    for section in (data["train"], *(data[name]["train"] for name in ("elastic", "policy", "refine"))):
        section.update(short)
    data["evaluation"]["early_stopping"] = None
    for stage in ("search", "full"):
        data["evaluation"][stage] = {"clean": 1, "corrupted": 1, "severities": [3]}
    data["nvit"].update(images=config.nvit.batch, rounds=2)
    data["nvit"]["train_between"]["steps"] = min(config.nvit.train_between.steps, STEPS)
    data["recovery"]["steps"] = min(config.recovery.steps, STEPS)
    data["refine"]["seeds"] = [0]
    data["search"].update(trials=_TRIALS, baselines=config.search.baselines[:1])
    data["benchmark"].update(seeds=[0], speedups=[min(config.benchmark.speedups)])
    data["benchmark"]["recovery"]["steps"] = min(config.benchmark.recovery.steps, STEPS)
    if split is not None:
        data["data"].update(train_split=split, eval_split=split)
    if random_weights:
        data["model"].update(backbone=None, backbone_file=None)
        data["policy"]["pretrained"] = False
    if config.model.shape is not None:
        data["model"]["checkpoint"] = str(folder / DENSE)
        if needs_policy(config):
            data["policy"]["checkpoint"] = str(folder / POLICY)
        if config.model.elastic is not None:
            data["model"]["elastic"] = str(folder / ELASTIC)
    data["name"] = SWEEP
    return SweepConfig.model_validate(data)


def jobs(config: SweepConfig, folder: Path) -> list[Job]:
    """Return the jobs of a search space in order. `config` is the space itself, not its smallest size."""
    space, results = ("--space", str(folder / SPACE)), ("--results", str(folder))
    share = f"{1 / min(config.benchmark.speedups):.0%}"
    every = [Job("profile", ("profile", str(folder / SPACE)))]
    dense: tuple[str, ...] = ()
    policy: tuple[str, ...] = ()
    searched: tuple[str, ...] = ()
    if config.model.shape is not None:
        dense = ("train",)
        every.append(Job("train", ("train", *space, "--out", str(folder / DENSE))))
        if needs_policy(config):
            policy = ("policy",)
            every.append(Job("policy", ("train", "--policy", *space, "--out", str(folder / POLICY))))
        if not METHODS[config.space.merge].needs_policy:
            searched = ("elastic",) if config.model.elastic else ()
            command = ("train", "--elastic", *space, "--start", str(folder / DENSE), "--out", str(folder / ELASTIC))
            every.append(Job("elastic", command, dense))
    searched = (*dense, *searched, *policy)
    pruned = str(folder / "pruned.safetensors")
    return [
        *every,
        Job("plan", ("search", *space, *results, "--dry-run", "--json"), searched),
        Job("search", ("search", *space, *results), searched),
        Job("refine", ("refine", "--sweep", SWEEP, *results, "--top", "1"), ("search",)),
        Job("export", ("export", RECIPE, *results, "--sweep", SWEEP, "--out", str(folder)), ("search",)),
        Job("prune", ("prune", *space, "--gflops", share, "--out", pruned), dense),
        Job("benchmark", ("benchmark", *space, *results), (*dense, *policy)),
    ]


def needs_policy(config: SweepConfig) -> bool:
    """Return whether the search or the comparison of methods needs the policy network of CTS."""
    compared = {name.split("+")[-1] for name in config.benchmark.methods} - {"nvit"}
    return any(METHODS[name].needs_policy for name in {config.space.merge, *compared})
