# SPDX-License-Identifier: Apache-2.0
"""Training losses: that of the head, distillation from a teacher, and both over nested recipes.

Distillation follows Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, at temperature 1; training
the full, the narrowest and random recipes in each step follows Yu & Huang, "Universally Slimmable Networks and
Improved Training Techniques", ICCV 2019.

Legend: B batch, K classes, h w grid of patches.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycomp.compress.elastic import Nested
from raycomp.data.samples import IGNORE
from raycomp.models.pixels import QueryMasks
from raycomp.models.policy import one_class
from raycomp.models.query_loss import query_loss
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe

Loss = Callable[[nn.Module, Tensor, Tensor], Iterator[Tensor]]
"""Maps a model, normalised images (B, 3, H, W) and labels (B, H, W) to scalars whose gradients are summed. Each is
differentiated before the next is computed, so that only one graph is in memory."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Average over labelled places, as torch does, but return 0 with zero gradients instead of NaN if there are none.

    It does not synchronise with the device.

    Args:
        logits: (B, K, height, width).
        labels: (B, height, width), classes or IGNORE.
    """
    total = F.cross_entropy(logits.float(), labels.long(), ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def pixel_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """Yield the cross-entropy over the labelled pixels, or the loss of a head of queries; see `supervised`."""
    if isinstance(model, Segmenter):
        yield supervised(model, model.patch_scores(images), labels)
    else:
        yield cross_entropy(model(images), labels)


def supervised(model: Segmenter, scores: Tensor, labels: Tensor) -> Tensor:
    """Compute the loss that a model's head is trained by, from its scores: cross-entropy, or `query_loss`.

    Args:
        scores: see `Segmenter.patch_scores`.
        labels: (B, H, W), classes or IGNORE, at the size of the images.
    """
    form, size = model.decoder.form, (labels.shape[-2], labels.shape[-1])
    if isinstance(form, QueryMasks):
        return query_loss(*form.unpacked(scores, size), labels)
    return cross_entropy(form.logits(scores, size), labels)


def policy_loss(policy: nn.Module, images: Tensor, labels: Tensor, ignore_border: bool) -> Iterator[Tensor]:
    """Yield the cross-entropy of a policy's predictions against `one_class`; see `Loss`."""
    logits = policy(images)
    yield cross_entropy(logits, one_class(labels, images.shape[-1] // logits.shape[-1], ignore_border))


def distilled(teacher: Segmenter, weight: float, draw: Callable[[int], Sequence[Recipe]] | None = None) -> Loss:
    """Return a loss: `supervised` plus `weight` times the KL divergence from the teacher's class scores.

    Args:
        draw: for an elastic model, maps a seed to the recipes of a step, over which the loss is averaged.
    """
    form = teacher.decoder.form

    def loss(model: nn.Module, images: Tensor, labels: Tensor) -> Iterator[Tensor]:
        assert isinstance(model, Segmenter)
        size = images.shape[-2], images.shape[-1]
        with torch.no_grad():
            target = form.log_probabilities(teacher.patch_scores(images).float(), size)  # (B, K, h, w)
        recipes = [None] if draw is None else draw(int(torch.randint(2**31, ())))
        for recipe in recipes:
            scores = (model.patch_scores if recipe is None else Nested(model, recipe))(images).float()
            given = form.log_probabilities(scores, size)
            divergence = F.kl_div(given, target, reduction="none", log_target=True).sum(1).mean()
            yield (supervised(model, scores, labels) + weight * divergence) / len(recipes)

    return loss
