# SPDX-License-Identifier: Apache-2.0
"""`raycomp profile | front | explain`: the reach of a space, the front of a sweep, the cost of a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from raycomp import config as configs
from raycomp.commands.inputs import (
    AS_SPACE,
    Json,
    Results,
    Sweep,
    SweepName,
    is_file,
    numbers,
    print_json,
    read_recipe,
    shape_of,
    stored_recipe,
)
from raycomp.errors import UserError
from raycomp.flops import Profile, profile
from raycomp.merging import Cts, ToMe
from raycomp.merging.tome import constant_r
from raycomp.recipe import check_fits, dense
from raycomp.report import tables
from raycomp.report.compare import Comparison, compare
from raycomp.report.published import comparability
from raycomp.results import query
from raycomp.results.store import Store, sweep_folder
from raycomp.settings.amounts import Amount
from raycomp.shape import ModelShape, Size
from raycomp.space import Space
from raycomp.storage import AnyPath

_BUDGET_HELP = "Budget of GFLOPs, for example 50%; by default the file's."


def profile_command(
    space: Annotated[Path, typer.Argument(help="Search space: a file, or the name of a shipped one.", **AS_SPACE)],
    budget: Annotated[str | None, typer.Option(help=_BUDGET_HELP)] = None,
    tome: Annotated[str, typer.Option(help="Cost of ToMe with these r per block, for example 40,95,140.")] = "",
    cts: Annotated[str, typer.Option(help="Cost of CTS with these R, for example 0.3,0.6,0.7.")] = "",
    as_json: Json = False,
) -> None:
    """Show whether the budget can be met: tokens and GFLOPs by block of the dense and the smallest recipe."""
    sweep = configs.load(space, budget=budget)
    shape, image = shape_of(sweep, space)
    grid = Space.of(sweep, shape)
    if isinstance(sweep.search.budget, Amount) and sweep.search.budget.cost == "ms":
        raise UserError(f"budget {sweep.search.budget}: profile counts GFLOPs; expected --budget 60% or 0.2GFLOPs")
    limit = grid.budget_of(sweep.search.budget)
    grid.check_budget(limit)
    fitted = grid.recipe(grid.project({name: d.full for name, d in grid.dimensions.items()}, limit))
    recipes = {"dense": dense(shape), "at budget": fitted, "smallest": grid.recipe(grid.smallest)}
    if grid.cheapest != grid.smallest:
        recipes["cheapest"] = grid.recipe(grid.cheapest)
    costs = {name: profile(shape, recipe, image) for name, recipe in recipes.items()}
    merging = _merging(shape, image, sweep.policy.kind, tome, cts)
    if as_json:
        summary = {"space": sweep.name, "dimensions": len(grid.dimensions), "budget_gflops": limit, "satisfiable": True}
        print_json(summary | {name.replace(" ", "_"): _cost(cost) for name, cost in (costs | merging).items()})
        return
    tables.say(f"{sweep.name}: {len(grid.dimensions)} dimensions, input {image[0]}x{image[1]}")
    low, high = min(cost.gflops for cost in costs.values()), costs["dense"].gflops
    can = f"budget {limit / high:.1%} = {limit:.4g} GFLOPs can be met"
    tables.say(f"{can}: the space ranges from {low:.4g} to {high:.4g} GFLOPs")
    tables.console().print(tables.profile_table(list(costs.items())))
    if merging:
        tables.console().print(tables.settings_table({"dense": costs["dense"]} | merging))


def _merging(shape: ModelShape, image: Size, policy: str, tome: str, cts: str) -> dict[str, Profile]:
    """Return the costs of ToMe and CTS by setting; ToMe with both metrics, because the paper counts all heads' keys."""
    merges: dict[str, Cts | ToMe] = {}
    for r in numbers("--tome", tome, 0, shape.grid(image)[0] * shape.grid(image)[1] // 2):
        ratios = constant_r(shape, int(r), image)
        for metric, name in (("keys", "all heads' keys"), ("mean_keys", "mean keys")):
            merges[f"ToMe r = {r:g}, {name}"] = ToMe.model_validate({"ratios": ratios, "metric": metric})
    for share in numbers("--cts", cts, 0, 0.75):
        merges[f"CTS R = {share:g}"] = Cts.model_validate({"share": share, "policy": policy})
    full = dense(shape)
    return {name: profile(shape, full.model_copy(update={"merge": one}), image) for name, one in merges.items()}


def front_command(sweep: SweepName, results: Results = "results", as_json: Json = False) -> None:
    """Print the Pareto front of a sweep against dense and the uniform baselines, and its refined recipes."""
    store = Store(sweep_folder(results, sweep))
    config, rows = store.config(), store.rows()
    stage, settings = query.final_stage(rows), config.search
    compares = comparability(config, stage)
    comparisons = compare(rows, settings.budget)
    budgets = query.at_budgets(rows, settings.baselines, settings.budget)
    refined, origins = query.refined_rows(rows), query.origins(rows)
    if as_json:
        print_json(
            {"stage": stage, "origins": origins, "comparability": compares, "dense": query.dense_row(rows, stage),
             "front": [c.row.columns() | _beside(c) for c in comparisons], "budgets": budgets, "refined": refined,
             "agreement": query.stage_agreement(rows), "first_agreement": query.first_agreement(rows)}
        )  # fmt: skip
        return
    console = tables.console()
    console.print(tables.front_table(comparisons, settings.cost_metric == "latency", origins))
    if budgets:
        console.print(tables.budget_table(budgets, origins))
    tables.say(compares)
    if refined:
        ids = {row.recipe_id for row in refined}
        members = [c.row for c in comparisons if c.row.recipe_id in ids]
        console.print(tables.refined_table(members, refined, query.dense_row(rows, "full")))


def _beside(item: Comparison) -> dict[str, object]:
    """Return the results of a comparison that are no columns of the row; gains are fractions of mIoU, not points."""
    return {"rcd": item.rcd, "confidence": item.confidence, "vs_dense": item.dense, "vs_baselines": item.baselines}


def explain_command(
    recipe: Annotated[str, typer.Argument(help="Recipe id of a sweep or a prefix of it, or a YAML or JSON file.")],
    space: Annotated[Path | None, typer.Option(help="Search space of a recipe file.", **AS_SPACE)] = None,
    sweep: Sweep = None,
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """Show the GFLOPs of a recipe by block."""
    if is_file(recipe):
        if space is None:
            raise UserError(f"--space is missing: the recipe file {recipe} does not name its model")
        where: AnyPath = space
        chosen, config = read_recipe(Path(recipe)), configs.load(space)
    else:
        stored = stored_recipe(recipe, results, sweep)
        chosen, config, where = stored.recipe, stored.config, stored.folder / "sweep.yaml"
    shape, image = shape_of(config, where)
    check_fits(shape, chosen)
    if chosen.adaptive:
        raise UserError(f"recipe {chosen.id}: its tokens and GFLOPs depend on the image; its row has the means")
    cost, full = profile(shape, chosen, image), profile(shape, dense(shape), image)
    if as_json:
        recipe_json = {"id": chosen.id, "family": chosen.family(shape), "recipe": chosen.model_dump(mode="json")}
        print_json(recipe_json | _cost(cost))
        return
    tables.console().print(tables.recipe_table(chosen, cost, full))


def _cost(cost: Profile) -> dict[str, object]:
    parts = {"gflops_embedding": cost.embedding, "gflops_blocks": cost.blocks, "gflops_decoder": cost.decoder}
    return {"gflops": cost.gflops, **parts, "tokens": cost.tokens}
