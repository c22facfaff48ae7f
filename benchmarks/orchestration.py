# SPDX-License-Identifier: Apache-2.0
"""Measure the overhead of Ray Tune per trial against a plain loop, and the start-up time of Ray.

    python benchmarks/orchestration.py [--trials 200]

Trials measure nothing: they write a row and end. Both loops propose random recipes, read the row back and learn from
it; the plain loop runs in one process, the other as a sweep with one worker. Prints the milliseconds per trial of both,
their difference, which is the overhead of Tune, and the seconds from `ray.init` to the start of the first trial.
"""

import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported

import typer
from ray import tune

from raycomp import config as configs
from raycomp.cluster import connection
from raycomp.config import SweepConfig
from raycomp.flops import gflops
from raycomp.results.row import Row
from raycomp.results.store import Store
from raycomp.search.proposal import Proposal
from raycomp.search.proposer import Proposer
from raycomp.search.sweep import run_sweep
from raycomp.space import Space

ROOT = Path(__file__).resolve().parents[1]


def made_up(space: Space, proposal: Proposal) -> Row:
    """Return a row of typical size."""
    recipe = proposal.recipe
    return Row(
        stage=proposal.stage,
        origin=proposal.origin,
        label=proposal.label,
        number=proposal.number,
        recipe_id=recipe.id,
        recipe_json=recipe.canonical_json(),
        status="complete",
        gflops=gflops(space.shape, recipe),
        clean_miou=0.5,
        corrupted_miou=0.4,
        class_iou=[0.5] * 11,
        corrupted_by_variant=[0.4] * 80,
    )


class Instant(tune.Trainable):
    """A trial that writes a row and logs the time."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], context: SimpleNamespace, samples: object, folder: Path, commit: str
    ) -> None:
        del samples, commit
        self._store, self._context = Store(folder), context
        self.reset_config(config)

    def step(self) -> dict[str, bool]:
        with (self._context.log / "began").open("a") as file:
            file.write(f"{time.time()}\n")
        self._store.write(made_up(self._context.space, self._proposal))
        return {"done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._proposal: Proposal = new_config["proposal"]
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing."""


def main(trials: Annotated[int, typer.Option()] = 200) -> None:
    config = configs.load(ROOT / "search_spaces" / "streetscenes_vit_micro.yaml", trials=trials, workers=1)
    config = config.changed("search", sampler="random")
    assert config.model.shape is not None
    space = Space(config.model.shape, config.space, config.model.shape.image)
    with tempfile.TemporaryDirectory() as folder:
        bare = _bare(Path(folder), config, space)
        with_tune, first, starting = _with_tune(Path(folder), config, space)
    print(f"{trials} trials: {1000 * bare:.1f} ms each in a plain loop, {1000 * with_tune:.1f} ms with Ray Tune")
    print(f"overhead of Tune: {1000 * (with_tune - bare):.1f} ms per trial")
    print(f"first trial: {first:.1f} s after the start of ray.init, which took {starting:.1f} s")


def _bare(folder: Path, config: SweepConfig, space: Space) -> float:
    """Return the seconds per trial."""
    store, proposer = Store(folder / "bare"), Proposer(space, config.search, [])
    store.open(config)
    began, done = time.perf_counter(), 0
    while (proposal := proposer.next()) is not None:
        store.write(made_up(space, proposal))
        row = store.read(*proposal.key)
        assert row is not None
        proposer.tell(row)
        done += 1
    return (time.perf_counter() - began) / done


def _with_tune(folder: Path, config: SweepConfig, space: Space) -> tuple[float, float, float]:
    """Return the seconds per trial, the seconds until the first starts, and those of `ray.init`."""
    store, proposer = Store(folder / "tune"), Proposer(space, config.search, [])
    store.open(config)
    context = SimpleNamespace(config=config, space=space, log=folder)
    began = time.time()
    connection.connect()
    starting = time.time() - began
    run_sweep(context, None, store, proposer, lambda _: None, Instant)  # type: ignore[arg-type]
    connection.disconnect()
    times = [float(line) for line in (folder / "began").read_text().split()]
    return (times[-1] - times[0]) / (len(times) - 1), times[0] - began, starting


if __name__ == "__main__":
    typer.run(main)
