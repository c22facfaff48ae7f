# SPDX-License-Identifier: Apache-2.0
"""The page of a benchmark: tables, figures, and a Parquet file with the speeds."""

from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from raycomp.benchmark.conditions import TITLES, Condition
from raycomp.benchmark.operating_points import OperatingPoint
from raycomp.benchmark.pictures import Pictures, scenes
from raycomp.benchmark.timing import Timing
from raycomp.context.sweep_context import SweepContext
from raycomp.files import written
from raycomp.report.benchmark_plots import plot_accuracy, plot_rank, plot_scenes
from raycomp.report.benchmark_tables import page, results
from raycomp.report.published import comparability
from raycomp.results.row import Row
from raycomp.storage import AnyPath


def write_benchmark_page(
    folder: AnyPath,
    context: SweepContext,
    points: dict[Condition, OperatingPoint],
    rows: Sequence[Row],
    timings: Sequence[Timing],
) -> list[AnyPath]:
    """Write the page, three figures and `speed.parquet` into the folder; return the files, the page first."""
    config, summaries = context.config, results(rows)
    title = f"{config.name}: {len(config.benchmark.methods)} methods at matched GFLOPs"
    recovery, seeds = config.benchmark.recovery, sorted({row.seed for row in rows})
    notes = [
        f"Data: {config.data.dataset} {config.data.eval_split}, {config.evaluation.full.clean} clean images and "
        f"{config.evaluation.full.corrupted} images of each of the 80 corrupted variants; "
        f"checkpoint {context.checkpoint}. {comparability(config)}",
        f"Recovery: {recovery.steps} steps of fine-tuning, seeds {', '.join(map(str, seeds))}."
        if recovery.steps
        else "Recovery: none; models are measured right after compression, and nothing is random.",
        "Fine-tuning uses the ground truth, without distillation. ALGM adapts to each image: its GFLOPs are the mean "
        "over the clean images at batch 1, and its speed is measured with the mean token counts in every image.",
    ]
    if any(summary.method == "found" for summary in summaries):
        notes.append("raycomp's recipes were chosen on these same images; those of the other methods by GFLOPs alone.")
    files = [folder / name for name in ("benchmark.md", "fig2.png", "fig3.png", "fig4.png", "speed.parquet")]
    with written(files[0]) as temporary:
        temporary.write_text(page(title, notes, rows, timings), encoding="utf-8")
    plot_accuracy(summaries, title, files[1])
    highest = max(config.benchmark.speedups)
    shown = sorted(
        (condition for condition in points if condition.method == "dense" or condition.speedup == highest),
        key=lambda condition: list(TITLES).index(condition.method),
    )
    stored = [(condition, folder / "pictures" / f"{condition.slug}.npz") for condition in shown]
    kept = [(condition, Pictures.load(path)) for condition, path in stored if path.is_file()]
    caption = f"{config.name} at {highest:g}x; red: errors (for compressed models, new ones); blue: corrected errors"
    if kept and kept[0][0].method == "dense":
        plot_scenes(scenes(context), kept, context.evalset.classes, caption, files[2])
    else:
        files.pop(2)
    plot_rank(summaries, context.shape.width, title, folder / "fig4.png")
    with written(files[-1]) as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(timing) for timing in timings]), temporary)
    return files
