"""How much each prunable unit matters: NViT's Hessian-aware score, once per model.

Yang et al., "Global Vision Transformer Pruning with Hessian-Aware Saliency" (NViT), CVPR 2023
(REFERENCE 7): I = (sum over linked weights of w * dL/dw)^2 / divisor, mean over batches.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from raycomp.compress.layout import axes
from raycomp.data.samples import IGNORE
from raycomp.models.segmenter import Segmenter

DIVISORS = {"embed": 12, "head": 6, "qk": 2, "v": 2, "mlp": 1, "out": 2}

Saliency = dict[str, Tensor]
"""Scores, float64: `embed` (E,), `block.i.head` (H,), `block.i.qk` and `.v` (H, width),
`block.i.mlp` (M,), and the same under `decoder.`; `decoder.out` (E,)."""


def compute(model: Segmenter, batches: Iterable[tuple[Tensor, Tensor]]) -> Saliency:
    """Score every unit of a dense model.

    Args:
        model: the dense model, in evaluation mode.
        batches: normalised images (B, 3, H, W) and labels (B, H, W), on the model's device.

    Returns:
        One score per unit; larger matters more.
    """
    sums: dict[str, Tensor] = {}
    count = 0
    for images, labels in batches:
        model.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images).float(), labels.long(), ignore_index=IGNORE)
        loss.backward()
        for name, score in _batch_scores(model).items():
            sums[name] = sums[name] + score if name in sums else score
        count += 1
    model.zero_grad(set_to_none=True)
    return {name: (total / count).cpu() for name, total in sums.items()}


def _batch_scores(model: Segmenter) -> Saliency:
    """Scores of one batch from the gradients that lie in the model."""
    linked: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
    for _, parameter, names in axes(model):
        if parameter.grad is None:
            continue
        product = (parameter.detach().double() * parameter.grad.double()).cpu()[..., None]  # flatten needs two axes
        for axis, name in enumerate(names):
            if name is not None:
                linked[name] = linked[name] + product.movedim(axis, 0).flatten(1).sum(1)
    scores: Saliency = {}
    for name, total in linked.items():
        place, _, kind = name.rpartition(".")
        if kind == "qkv":
            heads = _heads(model, place)
            query, key, value = total.view(3, heads, -1)
            value = value + linked[f"{place}.v"].view(heads, -1)
            scores[f"{place}.qk"] = (query + key) ** 2 / DIVISORS["qk"]
            scores[f"{place}.v"] = value**2 / DIVISORS["v"]
            scores[f"{place}.head"] = (query + key + value).sum(1) ** 2 / DIVISORS["head"]
        elif kind != "v":
            scores[name] = total**2 / DIVISORS[kind]
    return scores


def _heads(model: Segmenter, place: str) -> int:
    return model.shape.decoder_heads if place.startswith("decoder.") else model.shape.heads


def save(saliency: Saliency, path: Path) -> None:
    """Write scores, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({name: score.contiguous() for name, score in saliency.items()}, temporary)
    temporary.replace(path)


def load(path: Path) -> Saliency:
    """Read scores that `save` wrote."""
    return load_file(path)
