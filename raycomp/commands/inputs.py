# SPDX-License-Identifier: Apache-2.0
"""Helpers of the commands: find recipes and shapes, parse options, print JSON."""

import json
import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer
import yaml
from pydantic import ValidationError

from raycomp import config as configs
from raycomp.errors import UserError, first_line, nearest, without_password
from raycomp.recipe import Recipe
from raycomp.results.row import Row
from raycomp.results.store import Store
from raycomp.settings.amounts import Amount, CostName, Limit, parsed_limit
from raycomp.shape import ModelShape, Size
from raycomp.shipped import search_spaces, space_file
from raycomp.storage import AnyPath, located

if TYPE_CHECKING:
    import torch

Name = TypeVar("Name", bound=str)


def complete_sweep(context: typer.Context, incomplete: str) -> list[str]:
    """Complete names of sweeps in the shell."""
    try:
        folders = located(str(context.params.get("results") or "results")).glob("*/sweep.yaml")
        return sorted(path.parent.name for path in folders if path.parent.name.startswith(incomplete))
    except (OSError, UserError):
        return []


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
SweepName = Annotated[str, typer.Argument(help="Name of the sweep.", autocompletion=complete_sweep)]
Sweep = Annotated[
    str | None, typer.Option(help="Sweep of the recipe, if several have it.", autocompletion=complete_sweep)
]
Results = Annotated[str, typer.Option(help="Folder of the sweeps, or a URI: s3://bucket/results.")]
Tracking = Annotated[str | None, typer.Option(help="MLflow tracking URI; by default SQLite in the results folder.")]
OutFolder = Annotated[str, typer.Option(help="Folder for results, or a URI: s3://bucket/results.")]
DataFolder = Annotated[Path | None, typer.Option(help="Folder of the data set, instead of the file's.")]
Checkpoint = Annotated[str | None, typer.Option(help="Dense checkpoint, instead of the file's.")]


def complete_space(incomplete: str) -> list[str]:
    """Complete names of shipped search spaces in the shell."""
    return [name for name in search_spaces() if name.startswith(incomplete)]


AS_SPACE: dict[str, Any] = {"parser": space_file, "metavar": "FILE|NAME", "autocompletion": complete_space}
"""Settings of an option or argument that takes a search space: a file, or the name of a shipped one."""
SpaceFile = Annotated[Path, typer.Option(help="Search space: a file, or the name of a shipped one.", **AS_SPACE)]
DEFAULT_SPACE = Path("streetscenes_vit_micro")
"""Its model (1.9 million parameters) is shipped, too."""


def results_option(results: str) -> str:
    """Return the --results option of a suggested command; empty for the default folder."""
    return "" if results == "results" else f" --results {shlex.quote(results)}"


def runs_command(uri: str) -> str:
    """Return the shell command that shows the MLflow runs of a tracking URI."""
    return f"mlflow ui --backend-store-uri {shlex.quote(without_password(uri))}"


def parts(text: str) -> list[str]:
    """Split a comma-separated option."""
    return [part.strip() for part in text.split(",") if part.strip()]


def names(option: str, text: str, allowed: Sequence[Name]) -> list[Name]:
    """Split a comma-separated option of allowed names."""
    chosen, by_name = parts(text), dict[str, Name](zip(allowed, allowed, strict=True))
    if not chosen:
        raise UserError(f"{option} is empty; allowed: {', '.join(allowed)}")
    for name in chosen:
        if name not in by_name:
            raise UserError(f"{option} {name}: {nearest(name, allowed)}")
    return [by_name[name] for name in chosen]


def numbers(option: str, text: str, low: float, high: float) -> list[float]:
    """Parse a comma-separated option of numbers within a range."""
    values = []
    for part in parts(text):
        try:
            value = float(part)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise UserError(f"{option} {part}: expected numbers from {low:g} to {high:g}")
        values.append(value)
    return values


def cost_limits(
    params: str | None, ms: float | None, memory: str | None, file: str | None, speed: Path | None
) -> dict[CostName, Limit]:
    """Parse --max-params, --max-ms, --max-memory and --max-file.

    Raises:
        UserError: for a value that is no limit on its cost, or times that nothing limits.
    """
    if speed is not None and ms is None:
        raise UserError(f"--speed {speed}: only --max-ms needs it")
    if ms is not None and not 0 < ms < math.inf:
        raise UserError(f"--max-ms {ms:g}: expected a time above 0 such as 8")
    limits: dict[CostName, Limit] = {}
    texts: dict[CostName, str | None] = {"params": params, "memory": memory, "file": file}
    for name, text in texts.items():
        if text is not None:
            try:
                limits[name] = parsed_limit(text, (name,))
            except ValueError as error:
                raise UserError(f"--max-{name} {text}: {error}") from None
    return limits | ({} if ms is None else {"ms": Amount(ms, "ms")})


def check_suffix(option: str, path: Path, suffix: str) -> None:
    """Raise a UserError for an output file with another suffix, which might be a file of another kind."""
    if path.suffix.lower() != suffix:
        raise UserError(f"{option} {path}: expected a file that ends in {suffix}, as in {path.stem or 'name'}{suffix}")


def check_writable(option: str, path: Path) -> None:
    """Raise a UserError if the folder of an output file is not writable."""
    if not os.access(path.parent if path.parent.is_dir() else Path(), os.W_OK):
        raise UserError(f"{option} {path}: the folder is not writable")


def is_file(text: str) -> bool:
    """Return whether the text names a file; a text that is too long for a name does not."""
    return os.path.isfile(text)  # noqa: PTH113  which raises no error


def device_of(name: str) -> "torch.device":
    """Return the torch device of a name; raise a UserError if torch does not have it."""
    import torch

    available = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if name.partition(":")[0] not in available:
        hint = nearest(name, available) + ("" if len(available) > 1 else "; torch sees no GPU")
        raise UserError(f"--device {name}: {hint}")
    return torch.device(name)


def shape_of(config: configs.SweepConfig, where: AnyPath) -> tuple[ModelShape, Size]:
    """Return the model shape and the input size of a search space, from the file or its checkpoint."""
    shape = config.model.shape
    if shape is None:
        from raycomp.models import checkpoints  # needs torch

        try:
            shape = checkpoints.load(checkpoints.locate(config.model.checkpoint)).shape
        except UserError as error:
            raise UserError(f"{where}: field 'model.shape' is missing and {error}") from None
    return shape, config.data.window_for(shape)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a YAML or JSON file."""
    try:
        return Recipe.model_validate(configs.parsed(path.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable as YAML ({first_line(error)})") from None
    except ValidationError as error:
        raise UserError(f"{path}: {configs.explain(error, Recipe)}") from None


def confirmed(question: str, yes: bool) -> bool:
    """Return whether to go on: with --yes, or after the answer yes; raise a UserError if stdin is not a terminal."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"{question} stdin is not a terminal; confirm with --yes")
    return typer.confirm(question)


def print_json(value: Any) -> None:
    """Print rows and other data as JSON; NaN becomes null, and bytes are omitted."""
    print(json.dumps(_plain(value), indent=2, default=str))


def _plain(value: Any) -> Any:
    if isinstance(value, Row):
        return _plain(value.columns())
    if is_dataclass(value):
        return {part.name: _plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if not isinstance(item, bytes)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value


class Stored(NamedTuple):
    """A recipe of a sweep, and the settings and folder of the sweep."""

    recipe: Recipe
    config: configs.SweepConfig
    folder: AnyPath


def stored_recipe(prefix: str, results: str, sweep: str | None = None) -> Stored:
    """Find a recipe by a prefix of its id, in one sweep or in all of the folder.

    Raise a UserError for no match, for several, and if sweeps make different models of the recipe.
    """
    recipes: dict[str, dict[str, Stored]] = {}  # by id, then by what the model depends on
    for folder in sorted(path.parent for path in located(results).glob("*/sweep.yaml")):
        if sweep not in (None, folder.name):
            continue
        store = Store(folder)
        config = store.config()
        for row in store.rows():
            made = f"{row.checkpoint} {config.recovery}"
            recipes.setdefault(row.recipe_id, {}).setdefault(made, Stored(row.recipe, config, folder))
    matches = [recipe_id for recipe_id in recipes if recipe_id.startswith(prefix)]
    if not matches:
        hint = nearest(prefix, recipes) if recipes else f"there is no sweep {sweep or ''} in {results}"
        if hint.startswith("allowed"):
            hint = "raycomp front NAME lists the recipes of a sweep"
        raise UserError(f"no recipe {prefix!r}: {' '.join(hint.split())}")
    if len(matches) > 1:
        raise UserError(f"recipe {prefix!r} is not unique: {', '.join(matches)}")
    models = list(recipes[matches[0]].values())
    if len(models) > 1:
        places = ", ".join(one.folder.name for one in models)
        raise UserError(f"recipe {matches[0]}: the sweeps {places} make different models of it; choose one by --sweep")
    return models[0]
