# SPDX-License-Identifier: Apache-2.0
"""Precision of a CTS policy network in finding superpatches of one class."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from raycomp.data.samples import IGNORE
from raycomp.models.policy import one_class


def precision(
    policy: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], shares: Sequence[float], ignore_border: bool
) -> tuple[float, list[float]]:
    """Return the share of one-class superpatches, among all and among each image's best-scored ones.

    Args:
        batches: normalised images (B, 3, H, W) and labels (B, H, W).
        shares: fractions of the superpatches, best-scored first.
        ignore_border: as in `one_class`.

    Returns:
        The share among all superpatches, and one for each of `shares`; in [0, 1].
    """
    hits, counts = torch.zeros(1 + len(shares)), torch.zeros(1 + len(shares))
    with torch.inference_mode():
        for images, labels in batches:
            logits = policy(images)
            scores = (logits[:, 1] - logits[:, 0]).flatten(1)
            truth = one_class(labels, images.shape[-1] // logits.shape[-1], ignore_border).flatten(1)
            ordered = truth.gather(1, scores.argsort(dim=1, descending=True, stable=True))
            for index, share in enumerate((1.0, *shares)):
                best = ordered[:, : max(1, round(share * ordered.shape[1]))]
                hits[index] += int((best == 1).sum())
                counts[index] += int((best != IGNORE).sum())
    everywhere, *among = (hits / counts).tolist()
    return everywhere, among
