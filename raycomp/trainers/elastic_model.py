# SPDX-License-Identifier: Apache-2.0
"""Train an elastic Segmenter: the dense model with sorted units, for all recipes of the space at once.

Training can continue from an elastic model, for example over a larger space. Its units keep their order.
"""

from copy import deepcopy
from pathlib import Path

import numpy as np

from raycomp.compress.apply import compress
from raycomp.compress.elastic import ordered
from raycomp.context.calibration import score
from raycomp.losses import distilled
from raycomp.models import checkpoints
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe, dense
from raycomp.search.baselines import matched_baselines
from raycomp.space import Space
from raycomp.trainers.job import TrainedNetwork, TrainingJob


def train_elastic(job: TrainingJob, start: Path, half: bool) -> TrainedNetwork[Segmenter]:
    """Sort the units of the model in `start`, and train it over recipes of the space with that model as teacher.

    With `half`, the weights as stored in float16 are measured.
    """
    sweep, shape = job.sweep, job.shape
    teacher = checkpoints.load(start, shape).to(job.device)
    if checkpoints.is_elastic(start):
        model = deepcopy(teacher)
    else:
        job.say(f"scoring prunable units on {sweep.nvit.images} training images")
        model = ordered(teacher, score(teacher, sweep, job.device, sweep.search.criterion))
    model.regularise(job.settings.drop_path, job.settings.decoder_dropout)
    teacher.requires_grad_(False)
    widths, settings = sweep.space.model_copy(update={"precision": ("fp32",)}), sweep.elastic
    space = Space.of(sweep.model_copy(update={"space": widths}), shape)
    stored = widths.model_dump_json(exclude={"precision"})  # trained in float32 for all precisions
    low = settings.least * space.gflops({})
    always = [dense(shape), space.recipe(space.narrowest(low))]

    def draw(seed: int) -> list[Recipe]:
        rng = np.random.default_rng(seed)
        return always + [space.recipe(space.draw(rng, low)) for _ in range(settings.recipes)]

    identity = f" {checkpoints.fingerprint(start)} {stored} {settings.model_dump_json()}"
    model, seconds = job.fit(model, distilled(teacher, settings.distill, draw), identity)
    if half:
        model = model.half().float()
    full, table = _measured(job, model, space)
    fields = {"miou": full, checkpoints.ELASTIC: stored}
    return TrainedNetwork(model, "Elastic Segmenter", fields, table, f"mIoU {full} at full width", seconds)


def _measured(job: TrainingJob, model: Segmenter, space: Space) -> tuple[str, str]:
    """Measure full width and the baselines in the space; return the mIoU at full width and a table of all."""
    shares = tuple(share for share in job.sweep.search.baselines if share >= job.sweep.elastic.least)
    narrowest = space.recipe(space.smallest)
    baselines = matched_baselines(job.shape, space.image, shares, narrowest=narrowest, merging=space.merging)
    inside = [one for one in baselines if not space.outside(one.recipe)]
    job.say(f"measuring full width and {len(inside)} baselines on {job.count} images")
    full = f"{np.nanmean(job.class_iou(model)):.4f}"
    lines = ["| recipe | of the dense GFLOPs | mIoU |", "|---|---|---|", f"| full width | 100% | {full} |"]
    for one in inside:
        miou = np.nanmean(job.class_iou(compress(model, one.recipe, None)))
        job.say(f"{one.label}: mIoU {miou:.4f}")
        lines.append(f"| {one.kind} | {one.share:.0%} | {miou:.4f} |")
    return full, "\n".join(lines)
