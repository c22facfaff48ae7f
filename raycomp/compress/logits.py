# SPDX-License-Identifier: Apache-2.0
"""Refit the queries and keys of a pruned attention in closed form, so that its logits approximate the dense ones best.

Logits are products of queries and keys, so a head may mix its units: keeping r of its d units is only one way to give
the logits rank r. In two steps, each a least-squares optimum on calibration images:

1. The d queries and d keys of a dense head are refitted to the inputs of the pruned block, by ridge regression.
2. Their products, the logits (n, n), are replaced by the nearest matrix of rank r (Eckart & Young, "The Approximation
   of One Matrix by Another of Lower Rank", Psychometrika 1936), over all pairs of calibration tokens.

What a query adds to the logits of all keys does not change the softmax, so keys are centred in each image. Zhang &
Yang, "CORP: Closed-Form One-shot Representation-Preserving Structured Pruning" (2026) also compensate logits in closed
form, but within the span of the kept units.

Legend: B images, N tokens, n = B*N, E embedding width of the pruned model, H heads kept, d dense and r kept units.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from raycomp.compress.least_squares import correction
from raycomp.models.block import Attention


def refit_logits(small: Attention, full: Attention, inputs: tuple[Tensor, Tensor], embed: Tensor, kept: Tensor) -> None:
    """Refit the queries and keys of a pruned attention in place.

    With norms on queries and keys, or rotary position, units cannot be mixed, and nothing changes.

    Args:
        small: the pruned attention.
        full: the dense attention.
        inputs: normed tokens of the pruned block (B, N, E) and of the dense block.
        embed: indices of the embedding channels kept (E,).
        kept: rows of the dense queries that were kept (H * r,).
    """
    if full.q_norm is not None or hasattr(full, "pairs"):
        return
    ours, theirs = inputs
    heads, width = small.heads, full.qk
    units = kept.view(heads, small.qk)
    rows = (units[:, :1] // width * width + torch.arange(width, device=kept.device)).flatten()  # all of the kept heads
    fitted, moments = [], []
    for section, centre in enumerate((ours.mean((0, 1)), ours.mean(1, keepdim=True))):  # of queries, of keys
        weight, bias = (part[rows + section * full.heads * width] for part in (full.qkv.weight, full.qkv.bias))
        error = F.linear(theirs, weight, bias) - F.linear(ours, weight[:, embed])
        offset = error.mean((0, 1)) if section == 0 else error.mean(1, keepdim=True)
        x = (ours - centre).flatten(0, 1).double()
        change = correction(x, (error - offset).flatten(0, 1))
        weight, mean = weight[:, embed] + change.T, ours.double().mean((0, 1))
        bias = error.double().mean((0, 1)) - mean @ change
        by_head = weight.view(heads, width, -1)
        second = by_head @ (x.T @ x) @ by_head.transpose(1, 2)
        if section == 0:
            average = (weight @ mean + bias).view(heads, width, 1)
            second += len(x) * average @ average.transpose(1, 2)
        fitted.append(torch.cat([by_head, bias.view(heads, width, 1)], dim=2))
        moments.append(second)
    maps = low_rank(moments[0], moments[1], units % width)
    mixed = torch.cat([(m.transpose(1, 2) @ f).flatten(0, 1) for m, f in zip(maps, fitted, strict=True)])
    count = len(mixed)
    small.qkv.weight[:count], small.qkv.bias[:count] = mixed[:, :-1].to(ours.dtype), mixed[:, -1].to(ours.dtype)


def low_rank(queries: Tensor, keys: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps (H, d, r) of queries Q and of keys K whose products approximate QK' best, in float64.

    With moments Q'Q and K'K, the best approximation is QPK' for the projection P = G V V' G^-1, where G is the root of
    K'K, and V are the first r eigenvectors of G Q'Q G. Any basis of P gives the same logits. This one is orthonormal
    and as near as possible to the units `kept`, so that keys, which merging compares, stay near those of a selection.

    Args:
        queries: second moments Q'Q (H, d, d), float64.
        keys: second moments K'K (H, d, d), float64.
        kept: indices (H, r) of the units that a selection keeps.
    """
    count, width = kept.shape[1], keys.shape[1]
    chosen = F.one_hot(kept, width).transpose(1, 2).to(keys.dtype)  # (H, d, r)
    if count == width:
        return chosen, chosen
    values, vectors = torch.linalg.eigh(keys)
    values = values.clamp(min=0).sqrt()
    covered = values > 1e-6 * values[:, -1:]
    inverses = torch.where(covered, values, torch.inf).reciprocal()
    root, inverse = ((vectors * scale[:, None]) @ vectors.transpose(1, 2) for scale in (values, inverses))
    first = torch.linalg.eigh(root @ queries @ root).eigenvectors[..., -count:]
    basis = torch.linalg.svd(root @ first, full_matrices=False).U
    left, _, right = torch.linalg.svd(basis.transpose(1, 2) @ chosen)  # orthogonal Procrustes
    basis = basis @ left @ right
    return basis, inverse @ first @ first.transpose(1, 2) @ root @ basis
