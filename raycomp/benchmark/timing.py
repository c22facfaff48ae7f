"""FLOPs saved against speed gained (the paper's Table 2): all models in one process, taking turns."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from raycomp.benchmark.conditions import Level
from raycomp.benchmark.operating_points import Setting, built
from raycomp.context import Base
from raycomp.data.samples import NORMALIZATIONS
from raycomp.evaluate.latency import median_seconds
from raycomp.evaluate.miou import first_window, normalised
from raycomp.evaluate.token_counts import tokens_per_block
from raycomp.flops import gflops
from raycomp.recipe import Recipe

_ROUNDS, _WARM_UP = 7, 2


@dataclass(frozen=True)
class Timing:
    """How a setting's speed compares with the dense model's."""

    label: str
    flops_saved: float
    """Dense GFLOPs over its own."""
    speed_gained: float
    """Dense time over its own, medians of rounds in which every model ran once."""
    images_per_second: float
    setting: str
    """Device, precision, batch, threads."""


def time_settings(base: Base, settings: dict[Level, Setting], device: torch.device) -> list[Timing]:
    """Time one batch through every model; adaptive merging merges what the batch does on average."""
    config, shape = base.config.evaluation, base.shape
    window, dtype = base.config.data.window_for(shape), getattr(torch, config.dtype)
    pixels = NORMALIZATIONS[shape.normalization]
    images = base.evalset.images.views()
    chosen = (torch.from_numpy(images[i % len(images)][None]).to(device) for i in range(config.batch))
    x = torch.cat([first_window(normalised(image, pixels.mean, pixels.std, dtype), window) for image in chosen])
    models = {}
    for level, setting in settings.items():
        recipe = batched(base, setting, x.float())
        model = built(base, replace(setting, recipe=recipe))
        models[level] = model.to(device=device, dtype=dtype)
    with torch.inference_mode():
        runs = {level: partial(model, x) for level, model in models.items()}
        medians = median_seconds(runs, device, _ROUNDS, _WARM_UP)
    dense = next(level for level in models if level.method == "dense")
    full = settings[dense].gflops
    where = f"{device}, {config.dtype}, batch {config.batch}, {torch.get_num_threads()} thread(s)"
    costs = {level: gflops(shape, model.recipe, window) for level, model in models.items()}
    return [
        Timing(level.label, full / costs[level], medians[dense] / medians[level], config.batch / medians[level], where)
        for level in models
    ]


def batched(base: Base, setting: Setting, images: torch.Tensor) -> Recipe:
    """The recipe itself; for adaptive merging the fixed counts that its images merge on average."""
    merge = setting.recipe.merge
    if merge is None or not merge.adaptive:
        return setting.recipe
    model = built(base, setting).to(images.device)
    counts = np.mean([tokens_per_block(model, image[None]) for image in images], axis=0)
    rows, columns = base.shape.grid((images.shape[-2], images.shape[-1]))
    return setting.recipe.merging(merge.fixed(counts - base.shape.prefix, rows * columns))
