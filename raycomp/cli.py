"""The command line: `raycomp profile | front | explain`. Thin: every answer comes from a function elsewhere."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from raycomp import config as configs
from raycomp.errors import UserError, nearest
from raycomp.flops import Profile, profile
from raycomp.recipe import Cts, Recipe, ToMe, constant_r, dense
from raycomp.report import tables
from raycomp.report.compare import at_budgets, compare, stage_agreement
from raycomp.results.store import Store
from raycomp.search.space import Space
from raycomp.shape import ModelShape, Size

app = typer.Typer(help="Find prune-then-merge recipes for ViT segmentation models.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Results = Annotated[Path, typer.Option(help="Folder that holds the sweeps.")]


def run() -> None:
    """Entry point of the `raycomp` command."""
    guarded(app)


def guarded(command: Callable[..., None]) -> None:
    """Run a typer app or a plain function; a UserError becomes one line and exit code 2."""
    try:
        command() if isinstance(command, typer.Typer) else typer.run(command)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of a pipe, `head` for example, has seen enough
        sys.stderr.close()
        sys.exit(1)


@app.command("profile")
def profile_command(
    space: Annotated[Path, typer.Argument(help="Search space file.")],
    budget: Annotated[str | None, typer.Option(help="GFLOPs limit, for example 50%; by default the file's.")] = None,
    tome: Annotated[str, typer.Option(help="ToMe's r per block, for example 40,95,140: what they cost.")] = "",
    cts: Annotated[str, typer.Option(help="CTS's R, for example 0.3,0.6,0.7: what they cost.")] = "",
    as_json: Json = False,
) -> None:
    """Can the budget be met? Tokens and GFLOPs per block of the dense and the smallest recipe."""
    sweep = configs.load(space, budget=budget)
    shape, image = shape_of(sweep, space)
    grid = Space(shape, sweep.space, image)
    limit = sweep.search.budget * profile(shape, dense(shape), image).gflops
    grid.check_budget(limit)
    fitted = grid.recipe(grid.project({name: d.full for name, d in grid.dimensions.items()}, limit))
    recipes = {"dense": dense(shape), "at budget": fitted, "smallest": grid.recipe(grid.smallest)}
    costs = {name: profile(shape, recipe, image) for name, recipe in recipes.items()}
    asked = {
        name: profile(shape, recipe, image)
        for name, recipe in _asked(shape, image, sweep.policy.kind, tome, cts).items()
    }
    if as_json:
        print_json(
            {
                "space": sweep.name,
                "dimensions": len(grid.dimensions),
                "budget_gflops": limit,
                "satisfiable": True,
                **{name.replace(" ", "_"): _cost(cost) for name, cost in (costs | asked).items()},
            }
        )
        return
    console = tables.console()
    console.print(f"{sweep.name}: {len(grid.dimensions)} dimensions, input {image[0]}x{image[1]}", highlight=False)
    console.print(
        f"budget {sweep.search.budget:.1%} = {limit:.4g} GFLOPs can be met: the space reaches from "
        f"{costs['smallest'].gflops:.4g} to {costs['dense'].gflops:.4g} GFLOPs",
        highlight=False,
    )
    console.print(tables.profile_table(list(costs.items())))
    if asked:
        console.print(tables.settings_table({"dense": costs["dense"]} | asked))


def _asked(shape: ModelShape, image: Size, policy: str, tome: str, cts: str) -> dict[str, Recipe]:
    """Recipes of the settings asked for; ToMe by both metrics, as the paper's GFLOPs are those of all heads' keys."""
    whole, found = dense(shape), {}
    for r in _numbers("--tome", tome, 0, shape.grid(image)[0] * shape.grid(image)[1] // 2):
        ratios = constant_r(shape, int(r), image)
        for metric, name in (("keys", "all heads' keys"), ("mean_keys", "mean keys")):
            merge = ToMe.model_validate({"ratios": ratios, "metric": metric})
            found[f"ToMe r = {r:g}, {name}"] = whole.model_copy(update={"merge": merge})
    for share in _numbers("--cts", cts, 0, 0.75):
        merge_cts = Cts.model_validate({"share": share, "policy": policy})
        found[f"CTS R = {share:g}"] = whole.model_copy(update={"merge": merge_cts})
    return found


def _numbers(option: str, text: str, low: float, high: float) -> list[float]:
    numbers = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            value = float(part)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise UserError(f"{option} {part}: allowed are numbers from {low:g} to {high:g}")
        numbers.append(value)
    return numbers


@app.command("front")
def front_command(
    sweep: Annotated[str, typer.Argument(help="Name of the sweep.")],
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """The Pareto front of a sweep, against dense and the uniform baselines."""
    store = Store(results / sweep)
    settings, rows = store.config().search, store.rows()
    comparisons = compare(rows, settings.budget)
    budgets = at_budgets(rows, settings.known, settings.budget)
    if as_json:
        print_json({"front": [{**c.row, "rcd": c.rcd} for c in comparisons], "agreement": stage_agreement(rows)})
        return
    console = tables.console()
    console.print(tables.front_table(comparisons))
    console.print(tables.budget_table(budgets))


@app.command("explain")
def explain_command(
    recipe: Annotated[str, typer.Argument(help="Recipe id (a prefix will do) of a sweep, or a YAML or JSON file.")],
    space: Annotated[Path | None, typer.Option(help="Search space of a recipe file.")] = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Where a recipe spends its GFLOPs along the depth."""
    if Path(recipe).is_file():
        if space is None:
            raise UserError(f"--space is missing: the recipe file {recipe} does not say which model it is for")
        found, config, where = read_recipe(Path(recipe)), configs.load(space), space
    else:
        found, config, where = _stored_recipe(recipe, results)
    shape, image = shape_of(config, where)
    from raycomp.compress.prune import check  # needs torch, which the other commands do without

    check(shape, found)
    if found.adaptive:
        raise UserError(f"recipe {found.id}: its tokens and GFLOPs depend on the image; its row has the means")
    cost, whole = profile(shape, found, image), profile(shape, dense(shape), image)
    if as_json:
        print_json(
            {"id": found.id, "family": found.family(shape), "recipe": found.model_dump(mode="json"), **_cost(cost)}
        )
        return
    tables.console().print(tables.recipe_table(found, cost, whole))


def shape_of(config: configs.SweepConfig, where: Path) -> tuple[ModelShape, Size]:
    """Model shape and input size of a search space: its own, else its checkpoint's."""
    shape = config.model.shape
    if shape is None:
        from raycomp.models import checkpoints  # needs torch

        try:
            shape = checkpoints.load(checkpoints.locate(config.model.checkpoint)).shape
        except UserError as error:
            raise UserError(f"{where}: field 'model.shape' is missing and {error}") from None
    return shape, config.data.window_for(shape)


def read_recipe(path: Path) -> Recipe:
    """A recipe from a YAML or JSON file."""
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable as YAML ({str(error).splitlines()[0]})") from None
    except ValidationError as error:
        raise UserError(f"{path}: {configs.explain(error, Recipe)}") from None


def print_json(value: Any) -> None:
    """Print JSON; NaN, which JSON lacks, becomes null."""
    print(json.dumps(_plain(value), indent=2, default=str))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def _stored_recipe(prefix: str, results: Path) -> tuple[Recipe, configs.SweepConfig, Path]:
    known: dict[str, tuple[Recipe, configs.SweepConfig, Path]] = {}
    for path in sorted(results.glob("*/sweep.yaml")):
        store = Store(path.parent)
        for row in store.rows():
            known[row["recipe_id"]] = Recipe.model_validate_json(row["recipe_json"]), store.config(), path
    matches = [recipe_id for recipe_id in known if recipe_id.startswith(prefix)]
    if not matches:
        hint = nearest(prefix, known) if known else f"there are no sweeps in {results}"
        raise UserError(f"no recipe {prefix!r}: {hint}")
    if len(matches) > 1:
        raise UserError(f"recipe {prefix!r} is not unique: {', '.join(matches)}")
    return known[matches[0]]


def _cost(cost: Profile) -> dict[str, Any]:
    return {
        "gflops": cost.gflops,
        "gflops_embedding": cost.embedding,
        "gflops_blocks": cost.blocks,
        "gflops_decoder": cost.decoder,
        "tokens": cost.tokens,
    }
