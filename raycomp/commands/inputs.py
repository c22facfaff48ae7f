"""What the commands share: finding recipes and shapes, reading options, printing JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from raycomp import config as configs
from raycomp.errors import UserError, nearest
from raycomp.recipe import Recipe
from raycomp.results.store import Store
from raycomp.shape import ModelShape, Size

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Results = Annotated[Path, typer.Option(help="Folder that holds the sweeps.")]


def names(option: str, text: str, allowed: Sequence[str]) -> list[str]:
    """The parts of a comma-separated option, each one of those allowed."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    for name in found:
        if name not in allowed:
            raise UserError(f"{option} {name}: {nearest(name, allowed)}")
    return found


def numbers(option: str, text: str, low: float, high: float) -> list[float]:
    """The numbers of a comma-separated option, each within a range."""
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


def stored_recipe(prefix: str, results: Path) -> tuple[Recipe, configs.SweepConfig, Path]:
    """A recipe of any sweep in the folder by a prefix of its id, its sweep's configuration and that one's file.

    Raises:
        UserError: where there is none, or more than one.
    """
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
