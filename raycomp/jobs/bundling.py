# SPDX-License-Identifier: Apache-2.0
"""Export a recipe as a folder to deploy, with a model card of what its sweep measured."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raycomp.config import SweepConfig
from raycomp.deploy import bundle
from raycomp.errors import UserError
from raycomp.jobs.exporting import refined_model
from raycomp.jobs.exporting_onnx import Written
from raycomp.recipe import Recipe
from raycomp.report.model_card import Deployed, model_card
from raycomp.results.store import Store
from raycomp.storage import AnyPath

Say = Callable[[str], None]
_KINDS = {bundle.FACTS: "facts", bundle.CARD: "card", bundle.SUMS: "checksums"} | dict.fromkeys(
    bundle.PROGRAM, "program"
)


def export_bundle(
    recipe: Recipe,
    config: SweepConfig,
    sweep: AnyPath,
    out: Path,
    refined: bool,
    export: Callable[[Path, Say], list[Written]],
    say: Say,
) -> list[Written]:
    """Write a bundle, named after the recipe, into the folder `out`.

    Args:
        sweep: Folder of the sweep, whose rows the model card quotes.
        refined: Whether `export` writes the fine-tuned model.
        export: Writes models into a folder, at least one as ONNX, and returns what it wrote.

    Returns:
        The files of models.

    Raises:
        UserError: If the bundle's folder is taken or cannot be written, or a model cannot be exported.
    """
    if recipe.adaptive:
        raise UserError("--bundle: adaptive merging has no ONNX graph; use a recipe with fixed counts")
    folder = out / (f"{recipe.id}-refined" if refined else recipe.id)
    with bundle.drafted(folder, recipe.id) as draft:
        made = export(draft, lambda line: say(line.replace(str(draft), str(folder))))
        models = [bundle.read_model(one.path) for one in made if one.path.suffix == ".onnx"]
        seed = refined_model(recipe, sweep)[1] if refined else None
        card = model_card(Deployed(recipe, config, Store(sweep).rows(), seed, models))
        bundle.complete(draft, recipe.id, models, card)
    say(f"{folder}: {len(models)} ONNX model(s), {bundle.CARD}, and {bundle.PROGRAM[0]}, which needs no raycomp")
    return [replace(one, path=folder / one.path.name) for one in made]


def beside(made: Sequence[Written]) -> list[dict[str, Any]]:
    """Return the kind and path of the files of a bundle beside those that `export_bundle` returned."""
    known = {one.path for one in made}
    others = (path for path in sorted(made[0].path.parent.iterdir()) if path not in known)
    return [{"format": _KINDS.get(path.name, path.suffix[1:]), "path": path} for path in others]
