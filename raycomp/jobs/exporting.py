# SPDX-License-Identifier: Apache-2.0
"""Write a recipe's model for deployment, and check its logits on real images."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from raycomp.config import SweepConfig
from raycomp.context.preparation import prepare_context
from raycomp.deploy import model as models
from raycomp.errors import UserError
from raycomp.evaluate.sliding import first_window, normalised
from raycomp.files import fetched
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe
from raycomp.recover import recovered
from raycomp.report import tables
from raycomp.storage import AnyPath

_CHECKED = 8  # images


def export(
    recipe: Recipe,
    config: SweepConfig,
    folder: AnyPath,
    paths: Mapping[str, Path],
    refined: bool,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Write the model to a path for each format: safetensors, onnx or pt2; raise a UserError if that fails.

    `config` and `folder` are those of the sweep. A refined model is the one with the first seed.

    Returns:
        For each format: its name, the path, and the maximum difference of logits from torch's (None for safetensors).
    """
    context = prepare_context(config, say)
    if refined:
        network = _refined(recipe, folder)
    else:
        network = recovered(context, recipe, None, torch.device("cpu"), folder).float().eval()
    card = models.card_of(network, config.data, tuple(context.evalset.classes))
    samples = [torch.from_numpy(image[None]) for image in context.evalset.images.views()[:_CHECKED]]
    images = [normalised(image, card.mean, card.std, torch.float32) for image in samples]
    windows = torch.cat([first_window(image, card.window) for image in images])
    made = []
    for name, path in paths.items():
        difference = None
        if name == "safetensors":
            models.save(network, card, path)
            say(f"{path}: raycomp.load({str(path)!r}); recipe in {path.with_suffix('.yaml')}")
        else:
            from raycomp.deploy.onnx import export_onnx, export_program  # optional

            with tables.console(aside=True).status(f"tracing for {name}, and checking on {len(samples)} images"):
                difference = (export_onnx if name == "onnx" else export_program)(network, card, path, windows)
            say(f"{path}: logits within {difference:.1e} of torch's on {len(samples)} images")
        made.append({"format": name, "path": path, "logit_difference": difference})
    return made


def _refined(recipe: Recipe, folder: AnyPath) -> Segmenter:
    paths: list[AnyPath] = list((folder / "refined").glob(f"{recipe.id}-seed*.safetensors"))
    if not paths:
        raise UserError(f"recipe {recipe.id}: no refined model in {folder}; raycomp refine makes one")
    with fetched(min(paths, key=str)) as local:
        return models.load(local)
