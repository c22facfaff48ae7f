# SPDX-License-Identifier: Apache-2.0
"""FLOPs saved against speed gained (the paper's Table 2): all models run in turn in one process."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from raycomp.benchmark.conditions import Condition
from raycomp.benchmark.operating_points import OperatingPoint, built
from raycomp.context.sweep_context import SweepContext
from raycomp.evaluate.latency import median_seconds
from raycomp.evaluate.sliding import first_window
from raycomp.evaluate.token_counts import tokens_per_block
from raycomp.flops import gflops
from raycomp.recipe import Recipe

_ROUNDS, _WARM_UP = 7, 2


@dataclass(frozen=True)
class Timing:
    """Speed of an operating point, compared with the dense model."""

    label: str
    flops_saved: float
    """Dense GFLOPs over this point's."""
    speed_gained: float
    """Dense time over this point's; times are medians of rounds in which every model runs once."""
    images_per_second: float
    setting: str
    """Measuring conditions: device, precision, batch, threads."""


def time_points(context: SweepContext, points: dict[Condition, OperatingPoint], device: torch.device) -> list[Timing]:
    """Time one batch through every model. Adaptive merging uses the batch's mean token counts; see `batched`."""
    config, window, dtype = context.config.evaluation, context.window, getattr(torch, context.config.evaluation.dtype)
    images = context.evalset.images.views()
    chosen = (context.normalised(images[i % len(images)][None], device, dtype) for i in range(config.batch))
    x = torch.cat([first_window(image, window) for image in chosen])
    models = {}
    for condition, point in points.items():
        model = built(context, replace(point, recipe=batched(context, point, x.float())))
        models[condition] = model.to(device=device, dtype=dtype)
    with torch.inference_mode():
        runs = {condition: partial(model, x) for condition, model in models.items()}
        medians = median_seconds(runs, device, _ROUNDS, _WARM_UP)
    dense = next(condition for condition in models if condition.method == "dense")
    return [
        Timing(
            label=condition.label,
            flops_saved=points[dense].gflops / gflops(context.shape, model.recipe, window),
            speed_gained=medians[dense] / medians[condition],
            images_per_second=config.batch / medians[condition],
            setting=f"{device}, {config.dtype}, batch {config.batch}, {torch.get_num_threads()} thread(s)",
        )
        for condition, model in models.items()
    ]


def batched(context: SweepContext, point: OperatingPoint, images: torch.Tensor) -> Recipe:
    """Return the point's recipe; for adaptive merging, one that merges the images' mean token counts in every image."""
    merge = point.recipe.merge
    if merge is None or not merge.adaptive:
        return point.recipe
    model = built(context, point).to(images.device)
    counts = np.mean([tokens_per_block(model, image[None]) for image in images], axis=0)
    rows, columns = context.shape.grid((images.shape[-2], images.shape[-1]))
    special = [context.shape.special(block) for block in range(context.shape.depth)]
    return point.recipe.merging(merge.fixed(counts - special, rows * columns))
