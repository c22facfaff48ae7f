# SPDX-License-Identifier: Apache-2.0
"""Compare searched recipes with those made by hand on photographs that no search saw: CamVid's validation in halves.

    python benchmarks/photographs.py halves --data camvid11 --models models --out camvid    # data and search spaces
    raycomp search --space camvid/first.yaml --name first-0 --seed 0 --results camvid       # a search; also second
    raycomp benchmark --space camvid/first.yaml --name first-methods --results camvid       # ALGM, CTS, ToMe, NViT
    python benchmarks/photographs.py measure first --results camvid --seeds 0,1,2           # and second
    python benchmarks/photographs.py table --results camvid

`benchmarks/photographs_refined.py` fine-tunes all of them alike.

The validation photographs are one drive, so they are halved in time. A search uses one half; `measure` measures on the
other the best recipe it found at each share of the dense GFLOPs, and uniform recipes. `table` prints the means of both
halves, with 95 % intervals over the photographs of a half and over the seeds of the search.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
import yaml

from raycomp import config as configs
from raycomp.commands.inputs import numbers
from raycomp.context.calibration import default_device
from raycomp.context.preparation import prepare_context
from raycomp.context.sweep_context import SweepContext
from raycomp.evaluate.measure import measure as measured_on
from raycomp.evaluate.per_image import PerImage
from raycomp.memory import keep_freed_memory
from raycomp.merging import METHODS
from raycomp.models.segmenter import Segmenter
from raycomp.objectives import both
from raycomp.recipe import Recipe, dense
from raycomp.recover import recovered
from raycomp.report.confidence import DRAWS, Z, standard_errors
from raycomp.report.figures import Figure
from raycomp.results.query import at_budgets, completed, is_uniform_baseline
from raycomp.results.row import Row, present
from raycomp.results.store import Store
from raycomp.search.baselines import matched_baselines
from raycomp.search.proposal import Proposal
from raycomp.search.rows import described, measured
from raycomp.space import Space

HALVES = ("first", "second")
_IMAGES = 50  # of each half; the one between them is in neither
_SPACE = Path("search_spaces/camvid_vit_tiny.yaml")
STAGE = "benchmark"
"""Stage of the rows, which a label and a seed identify."""
DENSE, FULL_WIDTH, FOUND = "dense", "full width", "found"

app = typer.Typer(add_completion=False)
Results = Annotated[Path, typer.Option(help="Folder of the sweeps.")]
Seeds = Annotated[str, typer.Option(help="Seeds of the searches, separated by commas.")]


@app.command()
def halves(
    data: Annotated[Path, typer.Option(help="CamVid, in SegNet's layout.")],
    out: Annotated[Path, typer.Option()],
    models: Annotated[Path, typer.Option(help="Folder of the checkpoints that the search space names.")] = Path(),
    dtype: Annotated[str, typer.Option(help="Precision of the evaluation.")] = "float32",
) -> None:
    """Write both halves as splits of a data set, by links, and a search space for each."""
    images = {path.stem: path for path in sorted((data / "val").iterdir())}
    labels = {path.stem: path for path in sorted((data / "valannot").iterdir())}
    for split in ("train", "trainannot"):
        _link(out / split, (data / split).resolve())
    for half, names in zip(HALVES, (list(images)[:_IMAGES], list(images)[-_IMAGES:]), strict=True):
        for name in names:
            _link(out / half / images[name].name, images[name].resolve())
            _link(out / f"{half}annot" / labels[name].name, labels[name].resolve())
        config = configs.load(_SPACE).model_dump(mode="json")
        stages = {
            "search": {"clean": 25, "corrupted": 1, "severities": [1, 3, 5]},
            "full": {"clean": _IMAGES, "corrupted": 2},
        }
        config["evaluation"].update(stages, early_stopping={"clean": 8, "corrupted": 1, "severities": [3]}, dtype=dtype)
        config["data"].update(root=str(out), eval_split=half)
        for section, field in (("model", "checkpoint"), ("model", "elastic"), ("policy", "checkpoint")):
            config[section][field] = str(models / config[section][field])
        config["benchmark"].update(speedups=[1 / share for share in config["search"]["baselines"]])
        config["name"] = half
        (out / f"{half}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def _link(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(target)


@app.command()
def measure(
    half: Annotated[str, typer.Argument(help="Half to measure on: first or second.")],
    results: Results,
    seeds: Seeds = "0,1,2",
    threads: Annotated[int, typer.Option()] = 1,
) -> None:
    """Measure, on one half, what was found on the other, and the uniform recipes. Rows that exist are kept."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    config = configs.load(results / f"{half}.yaml")
    context = prepare_context(config, print)
    store = Store(results / f"on-{half}")
    store.open(config)
    done = {(row.label, row.seed) for row in completed(store.rows(), STAGE)}
    for label, seed, recipe in _cases(
        context, results, half, [int(seed) for seed in numbers("--seeds", seeds, 0, 999)]
    ):
        if (label, seed) in done:
            continue
        full_width = label == FULL_WIDTH
        model = context.elastic_model if full_width else recovered(context, recipe, None, default_device(), results)
        store.write(measured_row(context, model, recipe, label, seed))
        done.add((label, seed))


def measured_row(context: SweepContext, model: Segmenter, recipe: Recipe, label: str, seed: int) -> Row:
    """Measure a model on all images of a context; return its row, and print it in a line."""
    config = context.config
    result = measured_on(model, context.evalset, "full", config.evaluation, config.data, default_device(), timed=False)
    row = replace(described(context, Proposal(0, STAGE, "proposed", label, recipe)), seed=seed)
    row = measured(row, context, result)
    print(f"{label} {seed}: {row.cost_share:.1%}, {both(row)}", flush=True)
    return row


def _cases(context: SweepContext, results: Path, half: str, seeds: Sequence[int]) -> Iterator[tuple[str, int, Recipe]]:
    """Yield label, seed and recipe: dense, full width, uniform ones, and those found by searches of the other half."""
    shape, config = context.shape, context.config
    space = Space.of(config, shape)
    shares, narrowest = config.search.baselines, space.recipe(space.smallest)
    yield DENSE, 0, dense(shape)
    yield FULL_WIDTH, 0, dense(shape)
    for name in ("tome", config.space.merge):
        merging = METHODS[name].standard(shape, config.policy.kind)
        for one in matched_baselines(shape, space.image, shares, space.cost, narrowest, merging):
            if is_uniform_baseline(one.label) and not space.outside(one.recipe):
                yield at_share(one.kind, one.share), 0, one.recipe
    (other,) = set(HALVES) - {half}
    for seed in seeds:
        yield from ((at_share(FOUND, share), seed, recipe) for share, recipe in found(results, other, seed, shares))


def found(results: Path, half: str, seed: int, shares: Sequence[float]) -> Iterator[tuple[float, Recipe]]:
    """Yield the share and recipe of what a search found."""
    store = Store(results / f"{half}-{seed}")
    for at in at_budgets(store.rows(), shares, store.config().search.budget):
        if at.best is not None:
            yield at.share, at.best.recipe


def at_share(method: str, share: float) -> str:
    """Return the label of a method at a share: `found 0.27`."""
    return f"{method} {share:.2g}"


@app.command()
def table(
    results: Results,
    refined: Annotated[bool, typer.Option("--refined", help="Of `photographs_refined.py`.")] = False,
) -> None:
    """Print clean and corrupted mIoU of every method at every share, as a Markdown table."""
    rows = {half: refined_rows(results, half) if refined else rows_by_label(results, half) for half in HALVES}
    labels = set(rows[HALVES[0]]) & set(rows[HALVES[1]])
    print("| GFLOPs | method | clean | corrupted | interval over photographs | interval over seeds |")
    print("|---|---|---:|---:|---:|---:|")
    for label in sorted(labels & {DENSE, FULL_WIDTH}):
        print(_line("100 %", label, [rows[half][label] for half in HALVES]))
    for share in configs.load(results / f"{HALVES[0]}.yaml").search.baselines:
        ending = at_share("", share)
        methods = [label.removesuffix(ending) for label in labels if label.endswith(ending)]
        for method in sorted(methods, key=lambda name: (name != FOUND, name)):
            print(_line(f"{share:.0%}", method, [rows[half][method + ending] for half in HALVES]))


def rows_by_label(results: Path, half: str) -> dict[str, list[Row]]:
    """Return what was measured on a half by label, one row a seed, with the paper's methods."""
    rows = _by_label(results / f"on-{half}")
    methods = results / f"{half}-methods"
    for row in completed(Store(methods).rows(), STAGE) if methods.is_dir() else ():
        if row.label != DENSE:
            name, speedup = row.label.rsplit(" ", 1)
            rows.setdefault(at_share(name, 1 / float(speedup.removesuffix("x"))), []).append(row)
    return rows


def refined_rows(results: Path, half: str) -> dict[str, list[Row]]:
    """Return what `photographs_refined.py` measured on a half, by label."""
    return _by_label(refined_store(results, half))


def refined_store(results: Path, half: str) -> Path:
    """Return the folder of the rows of `photographs_refined.py`."""
    return results / f"refined-on-{half}"


def _by_label(folder: Path) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for row in completed(Store(folder).rows(), STAGE):
        rows.setdefault(row.label, []).append(row)
    return rows


def _line(share: str, method: str, halves: Sequence[Sequence[Row]]) -> str:
    """Return a line of the table: means over both halves and all seeds that both have."""
    seeds = sorted(set.intersection(*({row.seed for row in rows} for rows in halves)))
    by_seed = [[next(row for row in rows if row.seed == seed) for rows in halves] for seed in seeds]
    values = np.array([[(row.clean_miou, row.corrupted_miou) for row in pair] for pair in by_seed], float).mean(axis=1)
    clean, corrupted = (100 * values.mean(axis=0)).tolist()
    over = np.mean([_error(pair) for pair in by_seed], axis=0)
    between = [100 * Figure.of(column).half for column in values.T] if len(seeds) > 1 else []
    cells = ["/".join(f"{one:.2f}" for one in halfwidths) for halfwidths in (100 * Z * over, between)]
    return f"| {share} | {method} | {clean:.2f} | {corrupted:.2f} | {' | '.join(cells)} |"


def _error(pair: Sequence[Row]) -> np.ndarray:
    """Return the standard errors (2,) of the mean over both halves, clean and corrupted, by bootstrap over images."""
    drawn = [PerImage.unpacked(present(row.per_image)).drawn(DRAWS) for row in pair]
    return np.array(np.linalg.norm([standard_errors(one) for one in drawn], axis=0) / len(pair))


if __name__ == "__main__":
    app()
