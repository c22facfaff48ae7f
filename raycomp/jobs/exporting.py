# SPDX-License-Identifier: Apache-2.0
"""Write a recipe's model for deployment, and check its logits on real images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from raycomp.config import SweepConfig
from raycomp.context.calibration import calibration_crops
from raycomp.context.preparation import prepare_context
from raycomp.deploy import model as models
from raycomp.deploy.precision_facts import Precision
from raycomp.errors import UserError
from raycomp.evaluate.sliding import first_window, normalised
from raycomp.files import fetched
from raycomp.jobs.exporting_onnx import Written, write_onnx
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe
from raycomp.recover import recovered
from raycomp.report import tables
from raycomp.storage import AnyPath

_CHECKED = 8  # images


@dataclass(frozen=True)
class Outputs:
    """The files that an export writes."""

    formats: Mapping[str, Path]
    """Files by format: safetensors, onnx (in float32) or pt2."""
    precisions: Mapping[Precision, Path]
    """ONNX files by precision; empty without that format."""

    @classmethod
    def of(cls, folder: Path, recipe_id: str, formats: Iterable[str], precisions: Sequence[Precision]) -> Self:
        """Name the files in a folder: `ID.safetensors`, `ID.onnx`, `ID.int8.onnx`."""
        stems: dict[Precision, str] = {
            name: recipe_id if name == "fp32" else f"{recipe_id}.{name}" for name in precisions
        }
        paths = {name: folder / f"{recipe_id}.{name}" for name in formats}
        return cls(paths, {name: folder / f"{stem}.onnx" for name, stem in stems.items() if "onnx" in paths})

    @property
    def files(self) -> list[Path]:
        """All files, with the recipe beside safetensors."""
        others = [path for name, path in self.formats.items() if name != "onnx"]
        recipes = [path.with_suffix(".yaml") for name, path in self.formats.items() if name == "safetensors"]
        return [*others, *recipes, *self.precisions.values()]


def export(
    recipe: Recipe,
    config: SweepConfig,
    folder: AnyPath,
    outputs: Outputs,
    refined: bool,
    measure: bool,
    say: Callable[[str], None],
) -> list[Written]:
    """Write the model in every format and precision; raise a UserError if that fails.

    `config` and `folder` are those of the sweep. A refined model is the one with the first seed. Formats besides ONNX
    have float32 weights, whatever the recipe's precision.

    Args:
        measure: whether to measure the precisions, if any but float32 is written.
    """
    if outputs.formats.keys() & {"onnx", "pt2"}:
        from raycomp.deploy.onnx import export_program  # optional: fails before the slow steps
    context = prepare_context(config, say, quantises=False)
    calibration = calibration_crops(context.shape, config)[0] if "int8" in outputs.precisions else None
    if refined:
        network = _refined(recipe, folder)
    else:
        network = recovered(context, recipe.at("fp32"), None, torch.device("cpu"), folder).float().eval()
        network.recipe = recipe
    if recipe.precision == "int8":
        for name in outputs.formats.keys() - {"onnx"}:
            say(f"{outputs.formats[name]}: float32 weights; an INT8 recipe is INT8 in ONNX")
    card = models.card_of(network, config.data, tuple(context.evalset.classes))
    samples = [torch.from_numpy(image[None]) for image in context.evalset.images.views()[:_CHECKED]]
    images = [normalised(image, card.mean, card.std, torch.float32) for image in samples]
    windows = torch.cat([first_window(image, card.window) for image in images])
    made = list[Written]()
    for name, path in outputs.formats.items():
        if name == "safetensors":
            models.save(network, card, path)
            say(f"{path}: raycomp.load({str(path)!r}); recipe in {path.with_suffix('.yaml')}")
            made.append(Written(name, path))
        elif name == "onnx":
            made += write_onnx(network, card, windows, context, calibration, outputs.precisions, measure, say)
        else:
            with tables.console(aside=True).status(f"tracing for {name}, and checking on {len(samples)} images"):
                difference = export_program(network, card, path, windows)
            say(f"{path}: logits within {difference:.1e} of torch's on {len(samples)} images")
            made.append(Written(name, path, difference))
    return made


def refined_model(recipe: Recipe, folder: AnyPath) -> tuple[AnyPath, int]:
    """Return the path and the seed of a recipe's refined model in the folder of a sweep: the first by seed.

    Raises:
        UserError: if there is none.
    """
    start, paths = f"{recipe.id}-seed", dict[int, AnyPath]()
    for path in (folder / "refined").glob(f"{start}*.safetensors"):
        paths[int(path.stem.removeprefix(start))] = path
    if not paths:
        raise UserError(f"recipe {recipe.id}: no refined model in {folder}; raycomp refine makes one")
    seed = min(paths)
    return paths[seed], seed


def _refined(recipe: Recipe, folder: AnyPath) -> Segmenter:
    with fetched(refined_model(recipe, folder)[0]) as local:
        return models.load(local)
