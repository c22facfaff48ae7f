# SPDX-License-Identifier: Apache-2.0
"""Loss of EoMT: each class in an image supervises the class and the mask of one query.

Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022, as EoMT uses it for
semantic segmentation (Kerssies et al., CVPR 2025), on the predictions of the last block only. Masks are compared at
points (Kirillov et al., "PointRend", CVPR 2020).

Legend: B batch, Q queries, T classes in an image, K classes, M matched pairs, n points, h w grid of masks, H W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from raycomp.data.samples import IGNORE

POINTS = 12544
"""Number of points at which a mask is compared."""
NO_OBJECT = 0.1
"""Weight of queries without a class in the cross-entropy."""
_CLASS, _MASK, _DICE = 2.0, 5.0, 5.0  # weights of the three losses, and of their costs in the assignment
_OVERSAMPLED = 3.0  # candidates drawn per point
_UNCERTAIN = 0.75  # share of the points that are the least certain candidates

Pairs = tuple[Tensor, Tensor]
"""Indices (T,) of matched queries and of their targets."""


def query_loss(
    masks: Tensor, classes: Tensor, labels: Tensor, generator: torch.Generator | None = None, points: int = POINTS
) -> Tensor:
    """Return 2 * cross-entropy of classes + 5 * binary cross-entropy + 5 * dice loss of masks.

    Args:
        masks: (B, Q, h, w), logits of each query's mask.
        classes: (B, Q, K + 1), logits of each query's class; the last is "no object".
        labels: (B, H, W), classes or IGNORE. Ignored pixels are in no mask.
        generator: Draws the points; default: torch's global generator.
        points: Number of points at which a mask is compared.

    Returns:
        A scalar. An image without labelled pixels counts only in the cross-entropy: no query has an object.
    """
    masks, classes = masks.float(), classes.float()

    def draw(count: int, points: int) -> Tensor:
        return torch.rand(count, points, 2, device=masks.device, generator=generator)

    present = [_present(image) for image in labels]
    targets = [(image == which[:, None, None]).float() for image, which in zip(labels, present, strict=True)]
    pairs = [_assigned(*image, draw(1, points)) for image in zip(masks, classes, targets, present, strict=True)]
    query_classes = classes.new_full(classes.shape[:2], classes.shape[2] - 1, dtype=torch.int64)
    for row, which, (queries, order) in zip(query_classes, present, pairs, strict=True):
        row[queries] = which[order]
    weight = classes.new_ones(classes.shape[2])
    weight[-1] = NO_OBJECT
    loss = _CLASS * F.cross_entropy(classes.transpose(1, 2), query_classes, weight)
    matched = torch.cat([image[queries] for image, (queries, _) in zip(masks, pairs, strict=True)])  # (M, h, w)
    if len(matched) == 0:
        return loss
    truth = torch.cat([target[order] for target, (_, order) in zip(targets, pairs, strict=True)])  # (M, H, W)
    with torch.no_grad():
        uncertain = int(points * _UNCERTAIN)
        candidates = draw(len(matched), int(points * _OVERSAMPLED))
        places = torch.cat(
            [_nearest_border(matched, candidates, uncertain), draw(len(matched), points - uncertain)], dim=1
        )
        inside = _sampled(truth, places)
    logits = _sampled(matched, places)
    count = sum(len(which) for which in present)
    entropy = F.binary_cross_entropy_with_logits(logits, inside, reduction="none").mean(1).sum()
    return loss + (_MASK * entropy + _DICE * _dice(logits, inside)) / count


def _present(labels: Tensor) -> Tensor:
    """Return the classes (T,) of labels (H, W), ascending."""
    classes = labels.long().unique()
    return classes[classes != IGNORE]


@torch.no_grad()
def _assigned(masks: Tensor, classes: Tensor, targets: Tensor, present: Tensor, places: Tensor) -> Pairs:
    """Assign targets (T, H, W) of the classes `present` to different queries at the lowest total cost.

    Masks are compared at the same `places` (1, n, 2).
    """
    logits = _sampled(masks, places.expand(len(masks), -1, -1))  # (Q, n)
    inside = _sampled(targets, places.expand(len(targets), -1, -1))  # (T, n)
    probability = logits.sigmoid()
    with torch.autocast(masks.device.type, enabled=False):
        entropy = (F.softplus(-logits) @ inside.T + F.softplus(logits) @ (1 - inside).T) / places.shape[1]
        dice = 1 - (2 * probability @ inside.T + 1) / (probability.sum(1)[:, None] + inside.sum(1) + 1)
    cost = _MASK * entropy - _CLASS * classes.softmax(-1)[:, present] + _DICE * dice  # (Q, T)
    largest = torch.finfo(cost.dtype).max
    from scipy.optimize import linear_sum_assignment

    assignment = linear_sum_assignment(cost.nan_to_num(largest, largest, largest).cpu().numpy())
    queries, order = (torch.as_tensor(index, device=masks.device) for index in assignment)
    return queries, order


def _nearest_border(masks: Tensor, places: Tensor, count: int) -> Tensor:
    """Choose the `count` places (M, count, 2) at which the logits of masks (M, h, w) are nearest to 0."""
    index = _sampled(masks, places).abs().topk(count, dim=1, largest=False).indices
    return places.gather(1, index[..., None].expand(-1, -1, 2))


def _sampled(masks: Tensor, places: Tensor) -> Tensor:
    """Interpolate masks (M, h, w) at places (M, n, 2), x and y in (0, 1); return (M, n)."""
    return F.grid_sample(masks[:, None], 2 * places[:, :, None] - 1, align_corners=False)[:, 0, :, 0]


def _dice(logits: Tensor, inside: Tensor) -> Tensor:
    """Sum 1 - dice over masks (M, n), with 1 added to numerator and denominator."""
    probability = logits.sigmoid()
    return (1 - (2 * (probability * inside).sum(1) + 1) / (probability.sum(1) + inside.sum(1) + 1)).sum()
