"""What the commands share: finding recipes and shapes, reading options, printing JSON."""

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from raycomp import config as configs
from raycomp.errors import UserError, first_line, nearest, without_password
from raycomp.recipe import Recipe
from raycomp.results.row import Row
from raycomp.results.store import Store
from raycomp.shape import ModelShape, Size
from raycomp.shipped import search_spaces, space_file
from raycomp.storage import AnyPath, located

if TYPE_CHECKING:
    import torch

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def complete_sweep(context: typer.Context, incomplete: str) -> list[str]:
    """Names of sweeps, for the shell to complete."""
    try:
        folders = located(str(context.params.get("results") or "results")).glob("*/sweep.yaml")
        return sorted(path.parent.name for path in folders if path.parent.name.startswith(incomplete))
    except (OSError, UserError):
        return []


Sweep = Annotated[
    str | None,
    typer.Option(help="The sweep that a recipe is of, where several have it.", autocompletion=complete_sweep),
]
Results = Annotated[str, typer.Option(help="Folder that holds the sweeps, or a URI: s3://bucket/results.")]
Tracking = Annotated[str | None, typer.Option(help="MLflow tracking URI; by default SQLite in the results.")]
OutFolder = Annotated[str, typer.Option(help="Folder for results, or a URI: s3://bucket/results.")]
DataFolder = Annotated[Path | None, typer.Option(help="Folder of the data set, in place of the file's.")]
Checkpoint = Annotated[str | None, typer.Option(help="Dense checkpoint, in place of the file's.")]


def complete_space(incomplete: str) -> list[str]:
    """Names of the shipped search spaces, for the shell to complete."""
    return [name for name in search_spaces() if name.startswith(incomplete)]


AS_SPACE: dict[str, Any] = {"parser": space_file, "metavar": "FILE|NAME", "autocompletion": complete_space}
"""Of an option or argument that takes a search space: a file, or the name of a shipped one."""
Space = Annotated[Path, typer.Option(help="Search space: a file, or the name of a shipped one.", **AS_SPACE)]
DEFAULT_SPACE = Path("streetscenes_vit_micro")
"""Its model, of 1.9 million parameters, is shipped too."""


def results_option(results: str) -> str:
    """What a command that is suggested has to name, where the results are not in the folder that commands look in."""
    return "" if results == "results" else f" --results {shlex.quote(results)}"


def runs_command(uri: str) -> str:
    """The command that shows the MLflow runs of a tracking URI, for a shell."""
    return f"mlflow ui --backend-store-uri {shlex.quote(without_password(uri))}"


def parts(text: str) -> list[str]:
    """The parts of a comma-separated option."""
    return [part.strip() for part in text.split(",") if part.strip()]


def names(option: str, text: str, allowed: Sequence[str]) -> list[str]:
    """The parts of a comma-separated option, each one of those allowed."""
    found = parts(text)
    if not found:
        raise UserError(f"{option} names nothing; allowed: {', '.join(allowed)}")
    for name in found:
        if name not in allowed:
            raise UserError(f"{option} {name}: {nearest(name, allowed)}")
    return found


def numbers(option: str, text: str, low: float, high: float) -> list[float]:
    """The numbers of a comma-separated option, each within a range."""
    numbers = []
    for part in parts(text):
        try:
            value = float(part)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise UserError(f"{option} {part}: allowed are numbers from {low:g} to {high:g}")
        numbers.append(value)
    return numbers


def check_suffix(option: str, path: Path, suffix: str) -> None:
    """Check that a file to write is named as its kind, so that it overwrites none of another kind.

    Raises:
        UserError: for another suffix.
    """
    if path.suffix.lower() != suffix:
        raise UserError(f"{option} {path}: expected a file that ends in {suffix}, as in {path.stem or 'name'}{suffix}")


def check_writable(option: str, path: Path) -> None:
    """Check that a file can be written beside what is there.

    Raises:
        UserError: where its folder is not writable.
    """
    if not os.access(path.parent if path.parent.is_dir() else Path(), os.W_OK):
        raise UserError(f"{option} {path}: the folder is not writable")


def is_file(text: str) -> bool:
    """Whether the text names a file; one that is too long to be a name does not."""
    try:
        return Path(text).is_file()
    except OSError:
        return False


def device_of(name: str) -> "torch.device":
    """The device of that name.

    Raises:
        UserError: for one that this torch does not have.
    """
    import torch

    there = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if name.partition(":")[0] not in there:
        raise UserError(f"--device {name}: {nearest(name, there)}" + ("" if len(there) > 1 else "; torch sees no GPU"))
    return torch.device(name)


def shape_of(config: configs.SweepConfig, where: AnyPath) -> tuple[ModelShape, Size]:
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
        return Recipe.model_validate(configs.parsed(path.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable as YAML ({first_line(error)})") from None
    except ValidationError as error:
        raise UserError(f"{path}: {configs.explain(error, Recipe)}") from None


def print_json(value: Any) -> None:
    """Print JSON of rows and other data; NaN, which JSON lacks, becomes null, and bytes are left out."""
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


@dataclass(frozen=True)
class Stored:
    """A recipe of a sweep."""

    recipe: Recipe
    config: configs.SweepConfig
    """Of the sweep."""
    folder: AnyPath
    """Of the sweep."""


def stored_recipe(prefix: str, results: str, sweep: str | None = None) -> Stored:
    """A recipe by a prefix of its id, of one sweep, or of any in the folder that makes the same model of it.

    Raises:
        UserError: where there is none, or more than one; where sweeps make different models of it.
    """
    known: dict[str, dict[str, Stored]] = {}  # by id, then by what the model depends on
    for folder in sorted(path.parent for path in located(results).glob("*/sweep.yaml")):
        if sweep not in (None, folder.name):
            continue
        store = Store(folder)
        config = store.config()
        for row in store.rows():
            made = f"{row.checkpoint} {config.recovery}"
            known.setdefault(row.recipe_id, {}).setdefault(made, Stored(row.recipe, config, folder))
    matches = [recipe_id for recipe_id in known if recipe_id.startswith(prefix)]
    if not matches:
        hint = nearest(prefix, known) if known else f"there is no sweep {sweep or ''} in {results}"
        if hint.startswith("allowed"):
            hint = "raycomp front NAME lists those of a sweep"
        raise UserError(f"no recipe {prefix!r}: {' '.join(hint.split())}")
    if len(matches) > 1:
        raise UserError(f"recipe {prefix!r} is not unique: {', '.join(matches)}")
    found = list(known[matches[0]].values())
    if len(found) > 1:
        places = ", ".join(one.folder.name for one in found)
        raise UserError(f"recipe {matches[0]}: the sweeps {places} make different models of it; say which by --sweep")
    return found[0]
