# SPDX-License-Identifier: Apache-2.0
"""Parts of a trial at DeiT-B: effective rank, labels from patch scores, one batch of saliency."""

import time
from functools import partial

import torch
from torch import Tensor

from gpu_steps.models import build
from gpu_steps.notes import Notes, Setting
from raycomp.compress import saliency
from raycomp.evaluate.effective_rank import erank
from raycomp.evaluate.labels import most_likely
from raycomp.evaluate.latency import median_seconds
from raycomp.models.pixels import Bilinear, upsampled
from raycomp.recipe import dense


def run(setting: Setting, notes: Notes) -> None:
    shape, device = setting.design, setting.device
    rows, columns = shape.grid()
    features = torch.randn(4, rows * columns, shape.width, device=device)
    ways = {"svd": partial(_by_svd, features), "ours": partial(erank, features)}
    times = median_seconds(ways, device, 3, 1)
    off = float((_by_svd(features) - erank(features)).abs().max())
    notes.put(rank={name: 1e3 * seconds for name, seconds in times.items()} | {"difference": off})

    scores = torch.randn(setting.batch, shape.classes, rows, columns, device=device, dtype=setting.dtype)
    form = Bilinear(shape.patch)
    labels = {
        "straight": partial(_straight, scores, shape.patch),
        "ours": partial(most_likely, scores, form, shape.image),
    }
    times = median_seconds(labels, device, 5, 2)
    wrong = float((_straight(scores, shape.patch) != most_likely(scores, form, shape.image)).double().mean())
    notes.put(labels={name: 1e3 * seconds for name, seconds in times.items()} | {"share_that_differs": wrong})
    many = 2 if setting.small else 64  # past 2^31 logits
    large = most_likely(scores[:1].expand(many, -1, -1, -1), form, shape.image)
    notes.put(labels_of_a_large_batch=bool((large[-1] == large[0]).all()))

    model = build(shape, dense(shape), setting).float()
    images = torch.randn(2 if setting.small else 8, 3, *shape.image, device=device)
    truth = torch.randint(0, shape.classes, (len(images), *shape.image), device=device, dtype=torch.uint8)
    if setting.name == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        saliency.compute(model, [(images, truth)], "taylor", setting.dtype)
        if setting.name == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 2**30 if setting.name == "cuda" else None
    notes.put(saliency={"first_s": seconds[0], "then_s": min(seconds), "peak_gib": peak})


def _by_svd(features: Tensor) -> Tensor:
    s = torch.linalg.svdvals(features.double())
    p = s / s.sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1).exp()


def _straight(scores: Tensor, patch: int) -> Tensor:
    """All logits in float32, then the largest, a few images at a time."""
    size = (scores.shape[-2] * patch, scores.shape[-1] * patch)
    return torch.cat([upsampled(part.float(), patch, size).argmax(1) for part in scores.split(8)])
