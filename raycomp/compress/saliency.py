"""How much each prunable unit matters: NViT's Hessian-aware score, once per model.

Yang et al., "Global Vision Transformer Pruning with Hessian-Aware Saliency" (NViT), CVPR 2023
(REFERENCE 7): I = (sum over linked weights of w * dL/dw)^2 / divisor, mean over batches.
"""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from raycomp.compress.layout import axes
from raycomp.data.samples import IGNORE
from raycomp.files import written
from raycomp.flops import decoder_widths
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe
from raycomp.shape import ModelShape
from raycomp.storage import AnyPath

DIVISORS = {"embed": 12, "head": 6, "qk": 2, "v": 2, "mlp": 1, "out": 2}

Saliency = dict[str, Tensor]
"""Scores, float64: `embed` (E,), `block.i.head` (H,), `block.i.qk` and `.v` (H, width),
`block.i.mlp` (M,), and the same under `decoder.`; `decoder.out` (E,)."""


def compute(
    model: Segmenter,
    batches: Iterable[tuple[Tensor, Tensor]],
    dtype: torch.dtype = torch.float32,
    state: Path | None = None,
) -> Saliency:
    """Score every unit of a model, dense or already pruned.

    Args:
        model: in evaluation mode.
        batches: normalised images (B, 3, H, W) and labels (B, H, W), on the model's device.
        dtype: precision of the forward pass; below float32 through autocast.
        state: file that the sums are saved to after each batch, and gone on from if it is there.

    Returns:
        One score per unit; larger matters more.
    """
    sums, count = _restore(state)
    for images, labels in islice(batches, count, None):
        model.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            logits = model(images)
        F.cross_entropy(logits.float(), labels.long(), ignore_index=IGNORE).backward()
        for name, score in _batch_scores(model).items():
            sums[name] = sums[name] + score if name in sums else score
        count += 1
        if state is not None:
            save(sums, state, count)
    model.zero_grad(set_to_none=True)
    if state is not None:
        state.unlink(missing_ok=True)
    return {name: total / count for name, total in sums.items()}


def _restore(state: Path | None) -> tuple[Saliency, int]:
    """Sums and how many batches are in them."""
    if state is None or not state.is_file():
        return {}, 0
    with safe_open(state, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, int(file.metadata()["batches"])  # noqa: SIM118


def _batch_scores(model: Segmenter) -> Saliency:
    """Scores of one batch from the gradients that lie in the model."""
    linked: dict[str, Tensor] = {}
    for _, parameter, names in axes(model):
        if parameter.grad is None:
            continue
        product = (parameter.detach().double() * parameter.grad.double())[..., None]  # flatten needs two axes
        for axis, name in enumerate(names):
            if name is not None:
                total = product.movedim(axis, 0).flatten(1).sum(1).cpu()
                linked[name] = linked[name] + total if name in linked else total
    scores: Saliency = {}
    for name, total in linked.items():
        place, _, kind = name.rpartition(".")
        if kind == "qkv":
            heads, qk, v = attention_widths(model.shape, model.recipe, place)
            query, key, value = (t.view(heads, -1) for t in total.split((heads * qk, heads * qk, heads * v)))
            value = value + linked[f"{place}.v"].view(heads, -1)
            scores[f"{place}.qk"] = (query + key) ** 2 / DIVISORS["qk"]
            scores[f"{place}.v"] = value**2 / DIVISORS["v"]
            scores[f"{place}.head"] = ((query + key).sum(1) + value.sum(1)) ** 2 / DIVISORS["head"]
        elif kind != "v":
            scores[name] = total**2 / DIVISORS[kind]
    return scores


def attention_widths(shape: ModelShape, recipe: Recipe, place: str) -> tuple[int, int, int]:
    """Heads, QK and V width of the block that a layout place, `block.i` or `decoder.block.i`, names."""
    if place.startswith("decoder."):
        widths = decoder_widths(shape, recipe.embed)
        return widths.heads, widths.head_dim, widths.head_dim
    block = recipe.blocks[int(place.rpartition(".")[2])]
    return block.heads, block.qk, block.v


def save(saliency: Saliency, path: AnyPath, batches: int = 0) -> None:
    """Write scores, whole or not at all; `batches` says how many a partial sum holds."""
    tensors = {name: score.contiguous() for name, score in saliency.items()}
    with written(path) as temporary:
        save_file(tensors, temporary, {"batches": str(batches)})


def load(path: Path) -> Saliency:
    """Read scores that `save` wrote."""
    return load_file(path)
