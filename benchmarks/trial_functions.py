# SPDX-License-Identifier: Apache-2.0
"""Trial functions to compare samplers on: a formula of the recipe, and the elastic ViT-micro, measured once.

The formula follows the paper's curves: mild merging is free, merging down to few tokens is ruinous, pruning costs a
little everywhere, and blocks differ in sensitivity. Every seed draws other sensitivities.
"""

import fcntl
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raycomp import config as configs
from raycomp.context.preparation import prepare_context
from raycomp.context.sweep_context import SweepContext
from raycomp.evaluate.measure import measure
from raycomp.evaluate.miou import Accuracy
from raycomp.files import written
from raycomp.flops import profile
from raycomp.memory import keep_freed_memory
from raycomp.recipe import Recipe, dense
from raycomp.search.schedule import probe_trials
from raycomp.settings.space_and_search import SpaceConfig, WidthRange
from raycomp.shape import deit_base_distilled
from raycomp.space import Space

ROOT = Path(__file__).resolve().parents[1]
MEASURED = Path(__file__).with_name("elastic_trials.parquet")
_SAVE_EVERY = 20
_SHARES = (0.6, 0.5, 0.4, 0.33, 0.27, 0.22, 0.18, 0.15, 0.12)
"""Shares of the dense cost to search at."""
HELD_OUT = {"clean": 256, "corrupted": 8}
"""Images of the test split: clean ones, and those of every corrupted variant."""


@dataclass(frozen=True)
class Trial:
    """Result of a trial function; mIoU in [0, 1]."""

    clean: float
    corrupted: float
    seconds: float
    first: Accuracy | None = None
    """On the first images, if it was measured on all."""


class Formula:
    """A smooth function of 37 integers (heads, MLPs and merging of DeiT-B), with 0.3 points of noise."""

    baselines = _SHARES

    def __init__(self, seed: int) -> None:
        self._seed, self.shape = seed, deit_base_distilled((512, 512), 150)
        ranges = {
            "embed": WidthRange(low=384, step=32),
            "heads": WidthRange(low=3, step=1),
            "mlp": WidthRange(low=768, step=64),
        }
        self.trained = self.space = Space(self.shape, SpaceConfig(**ranges), self.shape.image)
        rng = np.random.default_rng(seed)
        self._weights = rng.gamma(1.0, 1.0, (3, self.shape.depth))
        self._weights /= self._weights.sum(1, keepdims=True)
        self._tilt = rng.uniform(0.7, 1.5, 3)  # of corrupted images relative to clean ones

    probe_trials = None

    def __call__(self, recipe: Recipe, stage: str = "search") -> Trial:
        del stage  # there are no images
        shape = self.shape
        heads = 1 - np.array([block.heads for block in recipe.blocks]) / shape.heads
        mlp = 1 - np.array([block.mlp for block in recipe.blocks]) / shape.mlp
        merged = np.array(recipe.ratios) / 0.5
        left = profile(shape, recipe).tokens[-1] / profile(shape, dense(shape)).tokens[-1]
        for_heads, for_mlp, for_merging = self._weights
        losses = np.array(
            [
                0.5 * for_heads @ heads**1.5,
                0.4 * for_mlp @ mlp**1.5 + 0.6 * (1 - recipe.embed / shape.width) ** 1.5,
                0.5 * for_merging @ merged**2 + 0.02 / left**0.8,
            ]
        )
        digest = hashlib.sha256(f"{self._seed} {recipe.id}".encode()).digest()
        noise = np.random.default_rng(int.from_bytes(digest[:6], "big")).normal(0, 0.003, 2)
        both = 0.8 * losses[0] * losses[1]
        clean = 0.50 * np.exp(-losses.sum() - both) + noise[0]
        corrupted = 0.38 * np.exp(-self._tilt @ losses - both) + noise[1]
        return Trial(max(0.0, clean), max(0.0, corrupted), 0.0)

    def save(self) -> None:
        """Do nothing."""


class Elastic:
    """A search trial of `make pareto` on one thread; its measurements are stored beside this file.

    Stages are those of a sweep, and `test`: the images of the test split.
    """

    baselines = _SHARES

    def __init__(self, seed: int) -> None:
        del seed  # there is only one elastic model
        self._measured: dict[tuple[str, str], Trial] = {}
        self._unsaved = 0
        torch.set_num_threads(1)
        keep_freed_memory()
        self.config = configs.load(ROOT / "search_spaces" / "streetscenes_vit_micro.yaml")
        self._context: SweepContext = prepare_context(self.config, lambda _: None)
        assert self._context.elastic is not None
        self.shape, self.trained = self._context.shape, self._context.elastic.space
        held_out = self.config.changed("data", eval_split="test").changed("evaluation", full=HELD_OUT)
        self._held_out: SweepContext = prepare_context(held_out, print)
        self.space = Space.of(self.config, self.shape)
        self.probe_trials = probe_trials(self.config)
        stages = self.config.evaluation.model_dump_json(include={"search", "early_stopping"})
        self._fingerprint = f"{self._context.fingerprint} {self._context.evalset.fingerprint} {stages}"
        self._read()

    def __call__(self, recipe: Recipe, stage: str = "search") -> Trial:
        key = recipe.id, stage
        if key not in self._measured:
            context = self._held_out if stage == "test" else self._context
            started, device, config = time.perf_counter(), torch.device("cpu"), context.config
            model, stage = context.cut(recipe), "full" if stage == "test" else stage
            result = measure(model, context.evalset, stage, config.evaluation, config.data, device, timed=False)
            corrupted, seconds = float(np.nanmean(result.corrupted)), time.perf_counter() - started
            self._measured[key] = Trial(result.clean_miou, corrupted, seconds, result.first)
            self._unsaved += 1
            if self._unsaved >= _SAVE_EVERY:
                self.save()
        return self._measured[key]

    def _read(self) -> None:
        if not MEASURED.exists():
            return
        table = pq.read_table(MEASURED)
        if table.schema.metadata[b"measured"].decode() != self._fingerprint:
            raise SystemExit(f"{MEASURED} was measured with other weights or images; delete it to measure again")
        for row in table.to_pylist():
            first = Accuracy(row["first_clean"], row["first_corrupted"]) if row["first_clean"] is not None else None
            trial = Trial(row["clean_miou"], row["corrupted_miou"], row["seconds"], first)
            self._measured[row["recipe_id"], row["stage"]] = trial

    def save(self) -> None:
        """Add the measurements to the file, which several processes may do at once."""
        if not self._unsaved:
            return
        with MEASURED.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._read()
            rows = [
                {
                    "recipe_id": recipe_id,
                    "stage": stage,
                    "clean_miou": trial.clean,
                    "corrupted_miou": trial.corrupted,
                    "seconds": trial.seconds,
                    "first_clean": None if trial.first is None else trial.first.clean,
                    "first_corrupted": None if trial.first is None else trial.first.corrupted,
                }
                for (recipe_id, stage), trial in sorted(self._measured.items())
            ]
            table = pa.Table.from_pylist(rows).replace_schema_metadata({"measured": self._fingerprint})
            with written(MEASURED) as temporary:
                pq.write_table(table, temporary, compression="zstd")
        self._unsaved = 0
