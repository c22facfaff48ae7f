# SPDX-License-Identifier: Apache-2.0
"""CPU against GPU: logits in float32 without TF32, mIoU in every precision."""

from copy import deepcopy
from typing import Any

import numpy as np
import torch

from gpu_steps.notes import SPACE, Notes, Setting
from raycomp import config as configs
from raycomp.compress.apply import compress
from raycomp.context.preparation import prepare_context
from raycomp.context.sweep_context import SweepContext
from raycomp.data.samples import NORMALIZATIONS
from raycomp.devices import exact_float32
from raycomp.evaluate.measure import measure
from raycomp.evaluate.sliding import normalised
from raycomp.merging import Algm, Cts
from raycomp.recipe import Recipe, dense
from raycomp.results.query import uniform_baselines
from raycomp.search.baselines import matched_baselines
from raycomp.settings.evaluation import EvaluationConfig, StageConfig

_CLOSE = 1e-4  # of a logit


def run(setting: Setting, notes: Notes) -> None:
    config = configs.load(SPACE)
    if setting.small:
        few = StageConfig(clean=4, corrupted=1, severities=(3,))
        config = config.model_copy(update={"evaluation": EvaluationConfig(search=few, full=few)})
    context = prepare_context(config, print, with_policy=True, criterion="taylor")
    whole = dense(context.shape)
    shares = matched_baselines(context.shape, context.shape.image, (0.4,))
    recipes: dict[str, Recipe] = {
        "dense": whole,
        "prune+ToMe 40%": next(one.recipe for one in shares if one.kind == uniform_baselines()[-1]),
        "ALGM": whole.model_copy(update={"merge": Algm(blocks=(1, 4), windows=0.4, pairs=0.2)}),
        "adaptive ALGM": whole.model_copy(update={"merge": Algm(blocks=(1, 4), threshold=0.9)}),
        "CTS": whole.model_copy(update={"merge": Cts(share=0.4, policy="small")}),
    }
    with exact_float32():
        notes.put(logits={name: _logits(setting, context, recipe) for name, recipe in recipes.items()})
        accuracy: dict[str, Any] = {}
        for name in ("dense", "prune+ToMe 40%"):
            accuracy[name] = {"float32 cpu": _miou(context, recipes[name], torch.device("cpu"), "float32")}
            for dtype in ("float32", "bfloat16", "float16"):
                accuracy[name][f"{dtype} {setting.name}"] = _miou(context, recipes[name], setting.device, dtype)
            notes.put(miou=accuracy)


def _logits(setting: Setting, context: SweepContext, recipe: Recipe) -> dict[str, float]:
    """The largest difference of a logit, image by image."""
    model, pixels = (
        compress(context.model, recipe, context.saliency, context.policy),
        NORMALIZATIONS[context.shape.normalization],
    )
    there, differences = deepcopy(model).to(setting.device), list[float]()
    for image in context.evalset.images.views()[:32]:
        x = normalised(torch.from_numpy(image[None].copy()), pixels.mean, pixels.std, torch.float32)
        with torch.inference_mode():
            wanted = model(x)
            found = there(x.to(setting.device)).cpu()
        differences.append(float((wanted - found).abs().max()))
    return {
        "largest": max(differences),
        "images": len(differences),
        "images_beyond_1e-4": sum(not one <= _CLOSE for one in differences),  # NaN counts
    }


def _miou(context: SweepContext, recipe: Recipe, device: torch.device, dtype: str) -> dict[str, Any]:
    model = compress(context.model, recipe, context.saliency, context.policy)
    points = context.config.evaluation.model_copy(update={"dtype": dtype})
    found = measure(model, context.evalset, "search", points, context.config.data, device)
    return {"clean": found.clean_miou, "corrupted": float(np.nanmean(found.corrupted))}
