# SPDX-License-Identifier: Apache-2.0
"""Find the few images that predict a recipe's accuracy best, and the time that stopping weak trials early saves.

    python benchmarks/stages.py subsets    # 24 random recipes on half of the full set: 10 minutes
    python benchmarks/stages.py sweeps      # the search of `make pareto` with and without early stopping: 20 minutes
    python benchmarks/stages.py agreement results/NAME ...  # from the rows of finished sweeps: seconds
    python benchmarks/stages.py seconds     # time of a trial, relative to one with twice the images: 1 minute

`agreement` compares stages on the recipes with a full evaluation, whose rows hold the counts of every image, and
replays early stopping on the search rows. `subsets` predicts the mean over all 80 variants, eight images each, from
smaller sets by linear regression. It prints the standard deviation of the error over recipes, and the rank
correlation. One thread, one trial at a time.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import typer

from raycomp import config as configs
from raycomp.config import SweepConfig
from raycomp.context.preparation import prepare_context
from raycomp.context.sweep_context import SweepContext
from raycomp.data.corruptions import SEVERITIES, TYPES, VARIANTS
from raycomp.data.evalset import CLEAN
from raycomp.data.samples import IGNORE, NORMALIZATIONS
from raycomp.evaluate.confusions import confusion
from raycomp.evaluate.miou import Accuracy, miou
from raycomp.evaluate.per_image import PerImage
from raycomp.evaluate.sliding import normalised
from raycomp.memory import keep_freed_memory
from raycomp.objectives import values
from raycomp.results.pareto import hypervolume
from raycomp.results.query import completed, first_agreement, spearman
from raycomp.results.row import Row, present
from raycomp.results.store import Store
from raycomp.search.early_stopping import EarlyStopping
from raycomp.search.proposal import Proposal
from raycomp.search.proposer import Proposer
from raycomp.search.schedule import stage_images
from raycomp.search.trial import run_trial
from raycomp.settings.evaluation import StageConfig
from raycomp.space import Space

ROOT = Path(__file__).resolve().parents[1]
RECIPES, IMAGES, CLEAN_IMAGES, LOWEST_SHARE = 24, 8, 64, 0.17
DOUBLE = StageConfig(clean=64, corrupted=2)  # the search stage of the embedded search space
STAGES = (
    DOUBLE,
    StageConfig(clean=64, corrupted=1),
    StageConfig(clean=64, corrupted=1, severities=(1, 3, 5)),
    StageConfig(clean=56, corrupted=1, severities=(1, 3, 5)),
    StageConfig(clean=48, corrupted=1, severities=(1, 3, 5)),
    StageConfig(clean=32, corrupted=1),
    StageConfig(clean=24, corrupted=1),
    StageConfig(clean=16, corrupted=1, severities=(1, 3, 5)),
)
DRAWS = 1000
app = typer.Typer(add_completion=False)


def loaded() -> tuple[SweepConfig, SweepContext, Space]:
    torch.set_num_threads(1)
    keep_freed_memory()
    config = configs.load(ROOT / "search_spaces" / "streetscenes_vit_micro.yaml")
    context = prepare_context(config, print)
    return config, context, Space.of(config, context.shape)


@app.command()
def subsets() -> None:
    """Print how well clean images, severities and types predict the mean over all variants."""
    config, context, grid = loaded()
    stage = config.evaluation.full.model_copy(update={"clean": CLEAN_IMAGES, "corrupted": IMAGES})
    chosen = context.evalset.chosen(stage)
    variants, rank = context.evalset.variants[chosen], context.evalset.rank[chosen]
    rng, dense_gflops = np.random.default_rng(0), grid.gflops({})
    counted = []
    for number in range(RECIPES):
        params = grid.draw(rng, LOWEST_SHARE * dense_gflops)
        recipe = grid.recipe(grid.project(params, grid.budget_of(config.search.budget)))
        counted.append(np.stack(list(_confusions(context, context.cut(recipe), chosen))))
        print(f"measured {number + 1} of {RECIPES}", end="\r", flush=True)

    def of(part: np.ndarray) -> np.ndarray:
        """Return the mean mIoU over variants of the images in a mask, for every recipe."""
        present = [v for v in range(CLEAN, len(VARIANTS)) if (part & (variants == v)).any()]
        values = [[miou(one[part & (variants == v)].sum(0)) for v in present] for one in counted]
        return np.nanmean(values, axis=1)  # NaN where no image of a variant is labelled

    corrupted, severity, kind = variants != CLEAN, variants % len(SEVERITIES), variants // len(SEVERITIES)
    truth = of(corrupted)
    print(f"{'subset':42}{'images':>9}{'error, points':>17}{'Spearman':>10}")

    def show(name: str, part: np.ndarray) -> None:
        estimate = of(part)
        off = truth - np.polyval(np.polyfit(estimate, truth, 1), estimate)
        rho = spearman(estimate.tolist(), truth.tolist())
        print(f"{name:42}{part.sum():9}{100 * off.std(ddof=2):17.2f}{rho:10.3f}")

    for count in (8, 16, 64):
        show(f"clean, {count}", ~corrupted & (rank < count))
    for count in (1, 2, 4):
        show(f"all variants, {count} each", corrupted & (rank < count))
    for size in (1, 2, 3):
        for some in combinations(range(len(SEVERITIES)), size):
            show(
                f"severities {', '.join(str(SEVERITIES[s]) for s in some)}, 1 each",
                corrupted & (rank < 1) & np.isin(severity, some),
            )
    for index, name in enumerate(TYPES):
        show(f"{name}, {IMAGES} each", corrupted & (kind == index))


def _confusions(context: SweepContext, model: torch.nn.Module, chosen: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the confusion matrix of every image."""
    data, pixels = context.evalset, NORMALIZATIONS[context.shape.normalization]
    images, labels = data.images.views(), data.labels.views()
    with torch.inference_mode():
        for part in np.array_split(chosen, -(-len(chosen) // 32)):
            x = torch.from_numpy(np.stack([images[i] for i in part]))
            predicted = model(normalised(x, pixels.mean, pixels.std, torch.float32)).argmax(1)
            truth = torch.from_numpy(np.stack([labels[data.label_of[i]][..., 0] for i in part]))
            assert set(truth.unique().tolist()) <= {*range(context.shape.classes), IGNORE}
            yield from confusion(truth, predicted, context.shape.classes).numpy()


@app.command()
def sweeps(seeds: int = 3, sampler: str = "gp") -> None:
    """Print time and hypervolume of a search with early stopping, relative to one without."""
    config, context, grid = loaded()
    config = config.changed("search", sampler=sampler)
    print(f"{'seed':6}{'early stopping':>15}{'seconds':>9}{'stopped':>9}{'hypervolume':>13}{'Spearman':>24}")
    shares, volumes = [], []
    for seed in range(seeds):
        took: dict[bool, tuple[float, float]] = {}
        for staged in (False, True):
            arm = config.changed("search", seed=seed)
            if not staged:
                arm = arm.model_copy(update={"evaluation": arm.evaluation.model_copy(update={"early_stopping": None})})
            took[staged] = _search(arm, context, grid, seed, staged)
        shares.append(took[True][0] / took[False][0])
        volumes.append(took[True][1] / took[False][1])
    print(f"time with early stopping, relative: {np.mean(shares):.2f} ({', '.join(f'{s:.2f}' for s in shares)})")
    print(f"hypervolume, relative: {np.mean(volumes):.4f} ({', '.join(f'{v:.4f}' for v in volumes)})")


def _search(config: SweepConfig, context: SweepContext, grid: Space, seed: int, staged: bool) -> tuple[float, float]:
    """Return the seconds spent in trials and the hypervolume of the search stage."""
    context, proposer = replace(context, config=config), Proposer(grid, config.search, [], grid)
    seconds = 0.0
    while proposer.trials_done < config.search.trials:
        proposal = proposer.next()
        assert proposal is not None
        began = time.perf_counter()
        row = run_trial(context, None, proposal, Path(), torch.device("cpu"), "")
        seconds += time.perf_counter() - began
        proposer.tell(row)
    rows = list(proposer.rows.values())
    stopped = sum(row.status == "stopped" for row in rows)
    volume = hypervolume(proposer.search_rows(), proposer.dense_cost)
    rho = " / ".join(f"{value:.3f}" for value in first_agreement(rows).values())
    print(f"{seed:<6}{'yes' if staged else 'no':>15}{seconds:9.0f}{stopped:9}{volume:13.4f}{rho:>24}", flush=True)
    return seconds, volume


@app.command()
def agreement(folders: list[Path]) -> None:
    """Print how well stages rank the recipes of finished sweeps, with 95 % bootstrap intervals over recipes."""
    rows = [row for folder in folders for row in Store(folder).rows()]
    full = list({row.recipe_id: row for row in completed(rows, "full") if row.per_image}.values())
    assert len({(row.checkpoint, row.evalset, row.images) for row in full}) == 1, "the sweeps differ"
    counts = [PerImage.unpacked(present(row.per_image)) for row in full]
    truth = np.array([one.accuracy() for one in counts])
    before = _on(counts, DOUBLE)
    print(
        f"{len(full)} recipes, {min(row.cost_share for row in full):.0%} to {max(row.cost_share for row in full):.0%}"
    )
    print(
        f"{'stage':28}{'images':>7}  Spearman with {DOUBLE.clean} + {DOUBLE.corrupted} each, with the full set; points"
    )
    for stage in STAGES:
        estimates, part = _on(counts, stage), ", ".join(map(str, stage.severities))
        name = f"{stage.clean} + {stage.corrupted} each, {part}"
        print(
            f"{name:28}{stage_images(stage):7}  {_compared(estimates, before)}   {_compared(estimates, truth)}",
            flush=True,
        )
    for folder in folders:
        _replay([row for row in Store(folder).rows() if row.stage == "search" and row.early_clean_miou is not None])


def _on(counts: list[PerImage], stage: StageConfig) -> np.ndarray:
    """Return clean and corrupted mIoU (recipes, 2) on the images of a stage, the first of every variant."""
    result = []
    for one in counts:
        by_source = np.lexsort((one.sources, one.variants))  # a variant takes its images in this order
        _, first, variant = np.unique(one.variants[by_source], return_index=True, return_inverse=True)
        rank = np.arange(len(variant)) - first[variant]
        variants = one.variants[by_source]
        severity = np.array(SEVERITIES)[variants % len(SEVERITIES)]
        chosen = np.where(
            variants == CLEAN, rank < stage.clean, (rank < stage.corrupted) & np.isin(severity, stage.severities)
        )
        at = by_source[chosen]
        result.append(PerImage(one.hits[at], one.union[at], one.variants[at], one.sources[at]).accuracy())
    return np.array(result)


def _compared(estimates: np.ndarray, truth: np.ndarray) -> str:
    """Format Spearman with its interval, and the mean absolute error in points after the mean offset, of both."""
    texts, draws = [], np.random.default_rng(0).integers(len(truth), size=(DRAWS, len(truth)))
    for estimate, target in zip(estimates.T, truth.T, strict=True):
        rho = [spearman(estimate[draw].tolist(), target[draw].tolist()) for draw in draws]
        low, high = np.quantile(rho, (0.025, 0.975))
        difference = 100 * (estimate - target)
        error = np.abs(difference - difference.mean()).mean()
        texts.append(f"{spearman(estimate.tolist(), target.tolist()):.4f} [{low:.4f}, {high:.4f}] {error:.2f}")
    return " / ".join(texts)


def _replay(rows: list[Row]) -> None:
    """Print how many proposals would have been stopped where all corrupted images are among the first ones."""
    known, measured, stopped, wrong, dominated = EarlyStopping(), list[Row](), 0, 0, 0
    proposed = [row for row in completed(rows, "search") if row.origin == "proposed"]
    for row in completed(rows, "search"):
        row = replace(row, corrupted_miou=row.early_corrupted_miou)
        first = Accuracy(present(row.early_clean_miou), present(row.early_corrupted_miou))
        limits = known.thresholds(row.cost) if row.origin == "proposed" else ()
        beaten = any(
            other.cost <= row.cost and np.all(np.subtract(values(other), values(row))[:-1] >= 0) for other in measured
        )
        dominated += beaten and row.origin == "proposed"
        if any(first.clean < limit.clean and first.corrupted < limit.corrupted for limit in limits):
            stopped, wrong = stopped + 1, wrong + (not beaten)
        else:
            known.learn(row)
            measured.append(row)
    print(f"{len(proposed)} proposals, {dominated} dominated: {stopped} stopped, {wrong} of them wrongly")


@app.command()
def seconds(recipes: int = 6) -> None:
    """Print the CPU time of a search trial of random recipes, relative to one of the stage with twice the images."""
    config, context, grid = loaded()
    rng, total = np.random.default_rng(0), grid.gflops({})
    took: dict[str, list[float]] = {"before": [], "now": []}
    for number in range(recipes + 1):
        recipe = grid.recipe(grid.project(grid.draw(rng, LOWEST_SHARE * total), grid.budget_of(config.search.budget)))
        for name, stage in (("before", DOUBLE), ("now", config.evaluation.search)):
            evaluation = config.evaluation.model_copy(update={"search": stage})
            arm = replace(context, config=config.model_copy(update={"evaluation": evaluation}))
            began = time.process_time()
            row = run_trial(arm, None, Proposal(0, "search", "proposed", "", recipe), Path(), torch.device("cpu"), "")
            assert row.status == "complete", row.error
            if number:  # the first trial warms up
                took[name].append(time.process_time() - began)
    ratios = np.divide(took["now"], took["before"])
    before, now = (np.mean(took[name]) for name in ("before", "now"))
    print(f"CPU seconds: {before:.2f} before, {now:.2f} now, relative {ratios.mean():.3f} ± {ratios.std(ddof=1):.3f}")


if __name__ == "__main__":
    app()
