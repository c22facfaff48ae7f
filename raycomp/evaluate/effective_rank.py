"""Effective rank of encoder features: how many directions the tokens really use.

Roy & Vetterli, "The Effective Rank", EUSIPCO 2007: with p_i = s_i / sum(s) over the singular values,
erank = exp(-sum p ln p). The paper plots erank / min(N, C).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from raycomp.models.segmenter import Segmenter, restore


@dataclass(frozen=True)
class EffectiveRank:
    """Mean and standard deviation over images of erank / min(N, C), in (0, 1]."""

    mean: float
    std: float


def erank(features: Tensor) -> Tensor:
    """Effective rank of features (B, N, C): (B,) float64 between 1 and min(N, C)."""
    s = torch.linalg.svdvals(features.double())
    p = s / s.sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1).exp()


def effective_rank(model: Segmenter, images: Tensor) -> EffectiveRank:
    """Measure patch features on the full grid, merged tokens copied to every patch they stand for.

    Args:
        images: (B, 3, H, W), normalised.
    """
    prefix, shares = model.shape.prefix, []
    for part in images.split(1 if model.recipe.adaptive else len(images)):
        features, tokens = model.encoder(part)
        grid = restore(features[:, prefix:], tokens, prefix)  # (B, h*w, E)
        shares.append(erank(grid.float()) / min(grid.shape[1:]))
    share = torch.cat(shares)
    return EffectiveRank(float(share.mean()), float(share.std(correction=0)))
