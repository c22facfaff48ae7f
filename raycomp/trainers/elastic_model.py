"""Train an elastic Segmenter: the dense model with its units in order, for every recipe of the space at once."""

from pathlib import Path

import numpy as np

from raycomp.compress.apply import compress
from raycomp.compress.elastic import ordered
from raycomp.context.calibration import score
from raycomp.losses import nested
from raycomp.models import checkpoints
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe, dense
from raycomp.search.baselines import matched_baselines
from raycomp.space import Space
from raycomp.trainers.job import Made, TrainingJob


def train_elastic(job: TrainingJob, start: Path, half: bool) -> Made[Segmenter]:
    """Order the units of a dense model, and train it over recipes of the space with the model as teacher.

    Args:
        start: checkpoint of the dense model.
        half: whether float16 weights will be stored; these are then what is measured.
    """
    sweep, shape = job.sweep, job.shape
    teacher = checkpoints.load(start, shape).to(job.device)
    job.say(f"scoring prunable units on {sweep.nvit.images} training images")
    model = ordered(teacher, score(teacher, sweep, job.device, sweep.search.criterion))
    model.regularise(job.settings.drop_path, job.settings.decoder_dropout)
    teacher.requires_grad_(False)
    space, settings = Space(shape, sweep.space, sweep.data.window_for(shape), policy=sweep.policy.kind), sweep.elastic
    least = settings.least * space.gflops({})
    always = [dense(shape), space.recipe(space.narrowest(least))]

    def draw(seed: int) -> list[Recipe]:
        rng = np.random.default_rng(seed)
        return always + [space.recipe(space.draw(rng, least)) for _ in range(settings.recipes)]

    identity = f" {checkpoints.fingerprint(start)} {sweep.space.model_dump_json()} {settings.model_dump_json()}"
    model, seconds = job.fit(model, nested(teacher, settings.distill, draw), identity)
    if half:
        model = model.half().float()
    full, table = _measured(job, model, space)
    facts = {"miou": full, checkpoints.ELASTIC: sweep.space.model_dump_json()}
    return Made(model, "Elastic Segmenter", facts, table, f"mIoU {full} at full width", seconds)


def _measured(job: TrainingJob, model: Segmenter, space: Space) -> tuple[str, str]:
    """The mIoU of the full width, and a table with that of the known recipes that the space has."""
    shares = tuple(share for share in job.sweep.search.baselines if share >= job.sweep.elastic.least)
    plain = matched_baselines(
        job.shape, space.image, shares, narrowest=space.recipe(space.smallest), merging=space.merging
    )
    inside = [one for one in plain if not space.outside(one.recipe)]
    job.say(f"measuring full width and {len(inside)} known recipes on {job.count} images")
    full = f"{np.nanmean(job.class_iou(model)):.4f}"
    lines = ["| recipe | of the dense GFLOPs | mIoU |", "|---|---|---|", f"| full width | 100% | {full} |"]
    for one in inside:
        miou = np.nanmean(job.class_iou(compress(model, one.recipe, None)))
        job.say(f"{one.label}: mIoU {miou:.4f}")
        lines.append(f"| {one.kind} | {one.share:.0%} | {miou:.4f} |")
    return full, "\n".join(lines)
