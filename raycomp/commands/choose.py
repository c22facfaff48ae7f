"""`raycomp pick | compare | report`: which recipe to take, and what a person looks at after a sweep."""

import math
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from raycomp.commands.inputs import Json, Results, check_suffix, complete_sweep, print_json, results_option
from raycomp.errors import UserError
from raycomp.report import tables
from raycomp.report.choice import Limits, choose
from raycomp.report.confidence import confidence
from raycomp.results.query import at_budgets, class_names, dense_row, final_front
from raycomp.results.store import Store, sweep_folder
from raycomp.settings.section import Share

_SHOWN = 5  # recipes that come next to the picked one

Sweeps = Annotated[list[str], typer.Argument(help="Names of sweeps.", autocompletion=complete_sweep)]


def pick_command(
    sweep: Annotated[str, typer.Argument(help="Name of the sweep.", autocompletion=complete_sweep)],
    max_gflops: Annotated[float | None, typer.Option(help="GFLOPs of an image, at most.")] = None,
    max_share: Annotated[
        str | None, typer.Option(help="Share of dense GFLOPs, or of time where it was limited: 40%.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Points of mIoU lost against dense, at most, clean and corrupted.")
    ] = None,
    max_clean_drop: Annotated[float | None, typer.Option(help="The same, of clean mIoU alone.")] = None,
    max_corrupted_drop: Annotated[float | None, typer.Option(help="The same, of corrupted mIoU alone.")] = None,
    min_class_iou: Annotated[
        list[str] | None,
        typer.Option(help="Least clean IoU of a class, pole=0.3; may be repeated. Looks beyond the front, too."),
    ] = None,
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """The recipe to take: best mean of clean and corrupted mIoU within a cost, or the cheapest accurate enough."""
    drops = {"drop": max_drop, "clean-drop": max_clean_drop, "corrupted-drop": max_corrupted_drop}
    for option, value in ({"gflops": max_gflops} | drops).items():
        if value is not None and not math.isfinite(value):
            raise UserError(f"--max-{option} {value}: wanted is a number")
    classes = dict(_class_limit(text) for text in min_class_iou or [])
    clean, corrupted = _least(max_drop, max_clean_drop), _least(max_drop, max_corrupted_drop)
    limits = Limits(max_gflops, _share(max_share), clean, corrupted, classes)
    if limits == Limits():
        raise UserError(
            "pick needs a limit: --max-gflops, --max-share, --max-drop, --max-clean-drop, --max-corrupted-drop, "
            "--min-class-iou"
        )
    store = Store(sweep_folder(results, sweep))
    budget, rows = store.config().search.budget, store.rows()
    found = choose(rows, limits)
    best, whole = found[0], dense_row(rows, found[0].stage)
    confidences = confidence(found) | confidence(
        final_front(rows, budget)
    )  # of the front's, as `raycomp front` tells it
    if as_json:
        recipe, *others = (row.columns() | {"confidence": confidences.get(row.recipe_id)} for row in found)
        print_json({"recipe": recipe, "others": others})
        return
    console = tables.console()
    names, order = class_names(rows), "Best mean of clean and corrupted" if limits.of_cost else "Cheapest"
    indices = {name: names.index(name) for name in classes}
    console.print(tables.picked_table(found[: 1 + _SHOWN], whole, indices, order, confidences))
    if len(found) > 1 + _SHOWN:
        console.print(f"and {len(found) - 1 - _SHOWN} more")
    named = f"{best.recipe_id[:6]} --sweep {sweep}{results_option(results)}"
    console.print(f"where its GFLOPs go:  raycomp explain {named}", highlight=False, soft_wrap=True)
    console.print(f"to use it:            raycomp export {named} --out models", highlight=False, soft_wrap=True)


def compare_command(sweeps: Sweeps, results: Results = "results", as_json: Json = False) -> None:
    """Hypervolume, fronts, and the best at each budget of two or more sweeps."""
    if len(sweeps) < 2:
        raise UserError(f"only the sweep {sweeps[0]} is named; compare takes two or more")
    from raycomp.report.sweep_view import SweepView, difference

    found = [SweepView.read(Store(sweep_folder(results, name))) for name in sweeps]
    if as_json:
        shares = found[0].config.search.baselines
        print_json([{"sweep": one.name, "trials": len(one.trials), "hypervolume": one.hypervolume(),
                     "stage": one.stage, "front": one.front, "difference": difference(found[0], one),
                     "budgets": at_budgets(one.rows, shares, one.share)}
                    for one in found])  # fmt: skip
        return
    console = tables.console()
    console.print(tables.sweeps_table(found))
    for one in found[1:]:
        if why := difference(found[0], one):
            console.print(
                f"{one.name} is of {why} than {found[0].name}: accuracies are not of the same thing", style="yellow"
            )


def report_command(
    sweeps: Sweeps,
    out: Annotated[
        Path | None, typer.Option(help="File to write; by default report.html in the sweep's folder.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """Write one HTML file about a sweep that opens offline; with several names, the first one beside the others."""
    if out is not None:
        check_suffix("--out", out, ".html")
    from raycomp.report.page.sweep_page import write_sweep_page
    from raycomp.report.sweep_view import SweepView

    found = [SweepView.read(Store(sweep_folder(results, name))) for name in sweeps]
    path = out or sweep_folder(results, sweeps[0]) / "report.html"
    write_sweep_page(found, path)
    if as_json:
        print_json({"report": path, "sweeps": [one.name for one in found]})
    else:
        tables.console().print(f"report: {path}", highlight=False, soft_wrap=True)
    if show and isinstance(path, Path):
        webbrowser.open(path.resolve().as_uri())


def _least(*limits: float | None) -> float | None:
    """The strictest of those limits that there are."""
    return min((limit for limit in limits if limit is not None), default=None)


def _class_limit(text: str) -> tuple[str, float]:
    """`pole=0.3` as a class and a number."""
    name, sign, value = text.rpartition("=")
    try:
        least = float(value)
    except ValueError:
        least = float("nan")
    if not sign or not 0 <= least <= 1:
        raise UserError(f"--min-class-iou {text}: wanted is a class and its least IoU from 0 to 1, as in pole=0.3")
    return name.strip(), least


def _share(text: str | None) -> float | None:
    """`40%` or `0.4` as a share."""
    if text is None:
        return None
    try:
        return TypeAdapter(Share).validate_python(text)
    except ValidationError:
        meant = f"; did you mean {text}%?" if text.isdigit() else ""
        raise UserError(f"--max-share {text}: wanted is a share of the dense GFLOPs, as in 40%{meant}") from None
