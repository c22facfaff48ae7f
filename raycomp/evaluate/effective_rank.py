# SPDX-License-Identifier: Apache-2.0
"""Effective rank of encoder features: the number of directions that the tokens use.

Roy & Vetterli, "The Effective Rank", EUSIPCO 2007: with p_i = s_i / sum(s) over the singular values,
erank = exp(-sum p ln p). The paper plots erank / min(N, C).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from raycomp.models.segmenter import Segmenter


@dataclass(frozen=True)
class EffectiveRank:
    """Mean and standard deviation over images of erank / min(N, C), in (0, 1]."""

    mean: float
    std: float


def erank(features: Tensor, copies: Tensor | None = None) -> Tensor:
    """Return the effective rank of features (B, N, C): (B,) float64 between 1 and min(N, C).

    The singular values are the square roots of the eigenvalues of the smaller Gram matrix, in float64. Values below
    about 1e-7 of the largest are rounding errors and count as 0.

    Args:
        copies: (B, N), how often each row occurs; default: once.
    """
    x = features.double()
    if copies is not None:  # n equal rows and one row scaled by sqrt(n) have the same Gram matrix
        x = x * copies.double().sqrt()[..., None]
    gram = x @ x.mT if x.shape[-2] < x.shape[-1] else x.mT @ x
    values = torch.linalg.eigvalsh(gram)  # ascending
    threshold = torch.finfo(values.dtype).eps * values.shape[-1] * values[..., -1:]
    s = torch.where(values > threshold, values, 0).sqrt()
    p = s / s.sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1).exp()


def effective_rank(model: Segmenter, images: Tensor) -> EffectiveRank:
    """Measure patch features on the full grid: a merged token counts once per patch it represents.

    Args:
        images: (B, 3, H, W), normalised.
    """
    special, ranks = model.shape.final_special, []
    for part in images.split(1 if model.recipe.adaptive else len(images)):
        features, tokens = model.encoder(part)
        ranks.append(erank(features[:, special:], None if tokens is None else tokens.size[:, special:]))
    rows, columns = model.shape.grid((images.shape[-2], images.shape[-1]))
    share = torch.cat(ranks).cpu() / min(rows * columns, features.shape[-1])
    return EffectiveRank(float(share.mean()), float(share.std(correction=0)))
