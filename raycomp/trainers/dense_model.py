# SPDX-License-Identifier: Apache-2.0
"""Train a dense Segmenter from random weights, ImageNet weights or a checkpoint."""

from pathlib import Path

import numpy as np
import torch

from raycomp.models import checkpoints
from raycomp.models.segmenter import Segmenter, init_weights
from raycomp.recipe import dense
from raycomp.trainers.job import TrainedNetwork, TrainingJob


def train_dense(job: TrainingJob, start: Path | None, half: bool) -> TrainedNetwork[Segmenter]:
    """Train the dense model, from the checkpoint `start` if given, and measure the IoU of each class.

    With `half`, the weights as stored in float16 are measured.
    """
    model = Segmenter(job.shape, dense(job.shape))
    model.regularise(job.settings.drop_path, job.settings.decoder_dropout)
    init_weights(model, torch.Generator().manual_seed(job.settings.seed))
    if start is not None:
        model.load_state_dict(checkpoints.load(start, job.shape).state_dict())
    elif job.sweep.model.backbone or job.sweep.model.backbone_file:
        checkpoints.load_backbone(model, job.sweep.model.backbone, job.sweep.model.backbone_file)
    model, seconds = job.fit(model)
    if half:
        model = model.half().float()
    ious = job.class_iou(model)
    lines = (f"| {name} | {iou:.3f} |" for name, iou in zip(job.held_out.classes, ious, strict=True))
    miou = f"{np.nanmean(ious):.4f}"
    table = "\n".join(["| class | IoU |", "|---|---|", *lines])
    return TrainedNetwork(model, "Segmenter", {"miou": miou}, table, f"mIoU {miou}", seconds)
