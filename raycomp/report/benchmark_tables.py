# SPDX-License-Identifier: Apache-2.0
"""The paper's Tables 1 and 2 as Markdown, from benchmark rows, with intervals over seeds."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from raycomp.benchmark.conditions import STAGE, TITLES
from raycomp.benchmark.timing import Timing
from raycomp.data.corruptions import TYPES
from raycomp.evaluate.robustness import (
    corruption_degradation,
    known_mean,
    measured_mean,
    relative_corruption_degradation,
)
from raycomp.objectives import CLEAN, CORRUPTED
from raycomp.report.figures import Figure
from raycomp.results.row import Row, present


@dataclass(frozen=True)
class Result:
    """A method at a speedup, summarised over seeds."""

    method: str
    label: str
    speedup: float
    """Dense GFLOPs over target GFLOPs; 1 for dense."""
    point: str
    gflops: float
    clean: Figure
    noise: Figure
    rank: Figure
    rank_std: float
    """Mean over seeds of the standard deviation over images."""
    tokens: int
    """Tokens after the last block, special tokens included; for adaptive merging the mean."""
    by_variant: np.ndarray
    """(types, severities), mean over seeds."""
    seeds: int


def results(rows: Iterable[Row]) -> list[Result]:
    """Summarise complete benchmark rows by condition: dense first, then by speedup and method."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.stage == STAGE and row.status == "complete":
            groups[row.label].append(row)
    summaries = [_result(label, group) for label, group in groups.items()]
    return sorted(summaries, key=lambda r: (r.speedup, list(TITLES).index(r.method)))


def _result(label: str, group: Sequence[Row]) -> Result:
    first = group[0]
    speedup = 1.0 if first.origin == "dense" else float(label.rpartition(" ")[2].removesuffix("x"))
    return Result(
        method=first.origin,
        label=label,
        speedup=speedup,
        point=first.operating_point or "",
        gflops=float(np.mean([present(row.gflops) for row in group])),
        clean=Figure.of([CLEAN.value(row) for row in group]),
        noise=Figure.of([CORRUPTED.value(row) for row in group]),
        rank=Figure.of([present(row.effective_rank) for row in group]),
        rank_std=float(np.mean([present(row.effective_rank_std) for row in group])),
        tokens=round(float(np.mean([row.tokens[-1] for row in group]))),
        by_variant=np.mean([row.corrupted_by_variant for row in group], axis=0).reshape(len(TYPES), -1),
        seeds=len(group),
    )


def failures(rows: Iterable[Row]) -> list[str]:
    """Return one line per condition without a result: targets that cannot be reached, and errors."""
    failed = {(r.label, r.error) for r in rows if r.stage == STAGE and r.status != "complete"}
    return [f"{label}: {error}" for label, error in sorted(failed)]


def table_1(summaries: Sequence[Result]) -> str:
    """Return method, point, GFLOPs, clean and noise mIoU; the best at each speedup in bold."""
    lines = [
        "| | method | operating point | GFLOPs | clean mIoU | noise mIoU | tokens left |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for speedup in dict.fromkeys(r.speedup for r in summaries):
        group = [r for r in summaries if r.speedup == speedup]
        best = {name: max(getattr(r, name).mean for r in group) for name in ("clean", "noise")}
        for position, r in enumerate(group):
            name = "" if position else ("dense" if speedup == 1 else f"{speedup:g}x")
            figures = [(getattr(r, n), best[n]) for n in best]
            mious = [f"**{f.percent()}**" if len(group) > 1 and f.mean == top else f.percent() for f, top in figures]
            cells = (name, TITLES[r.method], r.point, f"{r.gflops:.4g}", *mious, r.tokens)
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def table_2(summaries: Sequence[Result], timings: Sequence[Timing]) -> str:
    """Return FLOPs saved, speed gained, and their ratio."""
    lines = [
        "| method | FLOPs saved | speed gained | gained / saved | images/s | clean mIoU | noise mIoU |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    by_label = {r.label: r for r in summaries}
    for timing in timings:
        if r := by_label.get(timing.label):
            lines.append(
                f"| {timing.label} | {timing.flops_saved:.2f}x | {timing.speed_gained:.2f}x "
                f"| {timing.speed_gained / timing.flops_saved:.2f} | {timing.images_per_second:.1f} "
                f"| {100 * r.clean.mean:.2f} | {100 * r.noise.mean:.2f} |"
            )
    return "\n".join(lines)


def corruption_table(summaries: Sequence[Result]) -> str:
    """Return mIoU by corruption type, mean over severities and seeds, and mean CD and rCD against dense."""
    names = [*(kind.replace("_", " ") for kind in TYPES), "CD", "rCD"]
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    dense = next((r for r in summaries if r.method == "dense"), None)
    for r in summaries:
        values = [f"{100 * value:.1f}" for value in measured_mean(r.by_variant, axis=1)]
        if dense is not None:
            cd = corruption_degradation(r.by_variant, dense.by_variant)
            rcd = relative_corruption_degradation(r.by_variant, r.clean.mean, dense.by_variant, dense.clean.mean)
            values += ["-" if (mean := known_mean(one)) is None else f"{mean:.2f}" for one in (cd, rcd)]
        lines.append(f"| {r.label} | {' | '.join(values)} |")
    return "\n".join(lines)


def page(title: str, notes: Sequence[str], rows: Sequence[Row], timings: Sequence[Timing]) -> str:
    """Return the comparison as a Markdown page; its figures lie beside it."""
    summaries, missing = results(rows), failures(rows)
    where = timings[0].setting if timings else ""
    parts = [
        f"# {title}",
        *notes,
        "## Table 1: accuracy at matched GFLOPs",
        "mIoU in %; noise is the mean over 16 corruptions x 5 severities; ± is the 95 % interval over seeds.",
        table_1(summaries),
        *(["Without a result:", "\n".join(f"- {line}" for line in missing)] if missing else []),
        "## Fig. 2: accuracy against compute",
        "![clean above, noise below](fig2.png)",
        "## Fig. 3: merged tokens and new errors",
        "![images, predictions, merged tokens, new errors](fig3.png)",
        "## Fig. 4: effective rank against compute",
        "![effective rank and remaining tokens](fig4.png)",
        *([f"## Table 2: FLOPs saved and speed gained\n\n{where}", table_2(summaries, timings)] if timings else []),
        "## Noise mIoU by corruption",
        "CD: error relative to dense; rCD: error added by corruption, relative to dense (Kamann & Rother).",
        corruption_table(summaries),
    ]
    return "\n\n".join(parts) + "\n"
