# SPDX-License-Identifier: Apache-2.0
"""`raycomp pick | compare | report`: choose a recipe, compare sweeps, write the page of a sweep."""

import math
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from raycomp.commands.inputs import (
    Json,
    Results,
    SweepName,
    check_suffix,
    complete_sweep,
    cost_limits,
    print_json,
    results_option,
    shape_of,
)
from raycomp.errors import UserError, nearest
from raycomp.recipe import PRECISIONS
from raycomp.report import tables
from raycomp.report.choice import Limits, choose
from raycomp.report.confidence import Confidence, confidence
from raycomp.report.row_costs import RowCost, row_costs
from raycomp.results.query import at_budgets, class_names, dense_row, final_front
from raycomp.results.row import Row
from raycomp.results.store import Store, sweep_folder
from raycomp.settings.amounts import Amount, CostName, Limit, in_words
from raycomp.settings.section import Share

_SHOWN = 5  # further recipes in the table

Sweeps = Annotated[list[str], typer.Argument(help="Names of sweeps.", autocompletion=complete_sweep)]
_SHARE_HELP = "Maximum cost as a share of dense: 40%. GFLOPs, or time if the budget is in time."
_DROP_HELP = "Maximum loss against dense in points of mIoU, clean and corrupted."
_MS_HELP = "Maximum milliseconds of a batch: by the sweep's latency table, or as --speed says."
_MEMORY_HELP = "Maximum memory of weights and activations: 20MB, or 70% of dense."
_FILE_HELP = "Maximum size of the exported file: 4MB, or 50% of dense."
_SPEED_HELP = "Times of another device: what `raycomp speed NAME --json` printed there."
_PRECISION_HELP = "Only recipes in this precision: fp32 or int8."
_CLASS_HELP = "Minimum clean IoU of a class: pole=0.3. Repeatable; also considers recipes beyond the front."


def pick_command(
    sweep: SweepName,
    max_gflops: Annotated[float | None, typer.Option(help="Maximum GFLOPs per image.")] = None,
    max_share: Annotated[str | None, typer.Option(help=_SHARE_HELP)] = None,
    max_drop: Annotated[float | None, typer.Option(help=_DROP_HELP)] = None,
    max_clean_drop: Annotated[float | None, typer.Option(help="Maximum loss of clean mIoU, points.")] = None,
    max_corrupted_drop: Annotated[float | None, typer.Option(help="Maximum loss of corrupted mIoU, points.")] = None,
    min_class_iou: Annotated[list[str] | None, typer.Option(help=_CLASS_HELP)] = None,
    max_params: Annotated[str | None, typer.Option(help="Maximum parameters: 1M, or 50% of dense.")] = None,
    max_ms: Annotated[float | None, typer.Option(help=_MS_HELP)] = None,
    max_memory: Annotated[str | None, typer.Option(help=_MEMORY_HELP)] = None,
    max_file: Annotated[str | None, typer.Option(help=_FILE_HELP)] = None,
    speed: Annotated[Path | None, typer.Option(help=_SPEED_HELP)] = None,
    precision: Annotated[str | None, typer.Option(help=_PRECISION_HELP)] = None,
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """Choose the recipe with the best mean of clean and corrupted mIoU within a cost, or the cheapest accurate one."""
    numbers = {"gflops": max_gflops, "drop": max_drop, "clean-drop": max_clean_drop}
    further = cost_limits(max_params, max_ms, max_memory, max_file, speed)
    numbers |= {"corrupted-drop": max_corrupted_drop}
    limits = _limits(numbers, max_share, min_class_iou or [], further, precision)
    store = Store(sweep_folder(results, sweep))
    config, rows = store.config(), store.rows()
    costs = row_costs(further, rows, config, lambda: shape_of(config, store.folder)[0], store.folder, speed)
    chosen = choose(rows, limits, costs)
    # for members of the front, the same as in `raycomp front`
    confidences = confidence(chosen) | confidence(final_front(rows, config.search.budget))
    if as_json:
        recipe, *others = (_described(row, confidences, costs) for row in chosen)
        sources = {"sources": {name: one.source for name, one in costs.items()}} if costs else {}
        print_json({"recipe": recipe, "others": others} | sources)
        return
    _print_choice(chosen, rows, limits, confidences)
    for name, one in costs.items():
        tables.say(f"{chosen[0].recipe_id}: {in_words(Amount(one.value(chosen[0]), name))} ({one.source})")
    options = f"{chosen[0].recipe_id[:6]} --sweep {sweep}{results_option(results)}"
    tables.say(f"GFLOPs by block:  raycomp explain {options}")
    tables.say(f"to use it:        raycomp export {options} --out models")


def _described(row: Row, confidences: dict[str, Confidence], costs: dict[CostName, RowCost]) -> dict[str, object]:
    """Return the columns of a row, its confidence and the costs that are limited."""
    values = {name: value for name, one in costs.items() if math.isfinite(value := one.value(row))}
    return row.columns() | {"confidence": confidences.get(row.recipe_id)} | ({"costs": values} if costs else {})


def _limits(
    numbers: dict[str, float | None],
    share: str | None,
    classes: list[str],
    further: dict[CostName, Limit],
    precision: str | None,
) -> Limits:
    """Parse the limits of `raycomp pick`; `drop` limits both the clean and the corrupted drop."""
    for option, value in numbers.items():
        if value is not None and not math.isfinite(value):
            raise UserError(f"--max-{option} {value}: expected a number")
    if precision not in (None, *PRECISIONS):
        raise UserError(f"--precision {precision}: {nearest(str(precision), PRECISIONS)}")
    given = {option: value for option, value in numbers.items() if value is not None}
    clean, corrupted = (
        min((given[option] for option in ("drop", one) if option in given), default=None)
        for one in ("clean-drop", "corrupted-drop")
    )
    ious = dict(_class_limit(text) for text in classes)
    limits = Limits(given.get("gflops"), _share(share), clean, corrupted, ious, further, precision)
    if limits == Limits():
        options = "--max-gflops, --max-share, --max-params, --max-ms, --max-memory, --max-file, --max-drop, "
        options += "--max-clean-drop, --max-corrupted-drop, --min-class-iou, --precision"
        raise UserError(f"pick needs a limit: {options}")
    return limits


def _class_limit(text: str) -> tuple[str, float]:
    """Parse `pole=0.3` as a class and a number."""
    name, sign, value = text.rpartition("=")
    try:
        low = float(value)
    except ValueError:
        low = math.nan
    if not sign or not 0 <= low <= 1:
        raise UserError(f"--min-class-iou {text}: expected a class and its minimum IoU from 0 to 1, as in pole=0.3")
    return name.strip(), low


def _share(text: str | None) -> float | None:
    """Parse `40%` or `0.4` as a share."""
    if text is None:
        return None
    try:
        return TypeAdapter(Share).validate_python(text)
    except ValidationError:
        hint = f"; did you mean {text}%?" if text.isdigit() else ""
        raise UserError(f"--max-share {text}: expected a share of the dense cost such as 40%{hint}") from None


def _print_choice(chosen: list[Row], rows: list[Row], limits: Limits, confidences: dict[str, Confidence]) -> None:
    """Print the chosen recipes; `rows` are those of the sweep."""
    names, order = class_names(rows), "Best mean of clean and corrupted" if limits.of_cost else "Cheapest"
    classes = {name: names.index(name) for name in limits.class_iou}
    dense = dense_row(rows, chosen[0].stage)
    tables.console().print(tables.picked_table(chosen[: 1 + _SHOWN], dense, classes, order, confidences))
    if len(chosen) > 1 + _SHOWN:
        tables.say(f"and {len(chosen) - 1 - _SHOWN} more")


def compare_command(sweeps: Sweeps, results: Results = "results", as_json: Json = False) -> None:
    """Compare sweeps: hypervolumes, fronts, and the best recipe at each budget."""
    if len(sweeps) < 2:
        raise UserError(f"compare needs two or more sweeps, not only {sweeps[0]}")
    from raycomp.report.sweep_view import SweepView, difference

    views = [SweepView.read(Store(sweep_folder(results, name))) for name in sweeps]
    if as_json:
        shares = views[0].config.search.shares(views[0].share)
        print_json([{"sweep": one.name, "trials": one.spent, "hypervolume": one.hypervolume(),
                     "stage": one.stage, "front": one.front, "difference": difference(views[0], one),
                     "budgets": at_budgets(one.rows, shares, one.share)}
                    for one in views])  # fmt: skip
        return
    tables.console().print(tables.sweeps_table(views))
    for one in views[1:]:
        if why := difference(views[0], one):
            tables.say(f"{one.name} has {why} than {views[0].name}: accuracies are not comparable", style="yellow")


def report_command(
    sweeps: Sweeps,
    out: Annotated[Path | None, typer.Option(help="Output file; by default report.html in the sweep's folder.")] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """Write an HTML page of a sweep that opens offline; with several names, compare the first with the others."""
    if out is not None:
        check_suffix("--out", out, ".html")
    from raycomp.report.page.sweep_page import write_sweep_page
    from raycomp.report.sweep_view import SweepView

    views = [SweepView.read(Store(sweep_folder(results, name))) for name in sweeps]
    path = out or sweep_folder(results, sweeps[0]) / "report.html"
    write_sweep_page(views, path)
    if as_json:
        print_json({"report": path, "sweeps": sweeps})
    else:
        tables.say(f"report: {path}")
    if show and isinstance(path, Path):
        webbrowser.open(path.resolve().as_uri())
