# SPDX-License-Identifier: Apache-2.0
"""Saliency of every prunable unit: NViT's Hessian-aware score, or a first-order Taylor score.

Both use S, the sum of w * dL/dw over the weights linked to a unit, and are averaged over batches.

- `nvit`: (S / d)^2 as in Yang et al., "Global Vision Transformer Pruning with Hessian-Aware Saliency",
  CVPR 2023, and its code (REFERENCE 7). Linked weights are outputs with their
  biases and, for the embedding, the inputs of the blocks. A QK or V unit spans all heads, so every head keeps the
  same units.
- `taylor`: S^2 / d over every weight that is cut with the unit. QK and V units are scored per head.
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
from raycomp.devices import moved
from raycomp.files import written
from raycomp.flops import decoder_widths
from raycomp.models.pixels import QueryMasks
from raycomp.models.query_loss import query_loss
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import BlockWidths, Recipe
from raycomp.settings.section import Criterion
from raycomp.shape import ModelShape
from raycomp.storage import AnyPath

DIVISORS: dict[Criterion, dict[str, int]] = {
    "nvit": {"embed": 12, "head": 12, "qk": 2, "v": 2, "mlp": 1, "out": 2},
    "taylor": {"embed": 12, "head": 6, "qk": 2, "v": 2, "mlp": 1, "out": 2},
}
"""d of each kind of unit. NViT divides a head's sum by 6, and by 2 again because Q and V are linked to it."""

_CPU = torch.device("cpu")

Saliency = dict[str, Tensor]
"""Float64 scores: `embed` (E,), `block.i.head` (H,), `block.i.qk` and `.v` (H, width),
`block.i.mlp` (M,), the same keys under `decoder.`, and `decoder.out` (E,)."""


def compute(
    model: Segmenter,
    batches: Iterable[tuple[Tensor, Tensor]],
    criterion: Criterion,
    dtype: torch.dtype = torch.float32,
    state: Path | None = None,
) -> Saliency:
    """Score every unit of a model, dense or already pruned.

    Args:
        model: in evaluation mode.
        batches: normalised images (B, 3, H, W) and labels (B, H, W), on the model's device.
        criterion: the score to compute.
        dtype: precision of the forward pass; below float32 through autocast.
        state: file to save the sums to after each batch, and to resume from if it exists.

    Returns:
        One score per unit, on the CPU; higher is more important.
    """
    sums, count = _restore(state)
    sums = moved(sums, model.device)
    for images, labels in islice(batches, count, None):
        model.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            loss = _loss(model, images, labels)
        loss.backward()
        for name, score in from_gradients(model, criterion).items():
            sums[name] = sums[name] + score if name in sums else score
        count += 1
        if state is not None:
            save(moved(sums, _CPU), state, count)
    model.zero_grad(set_to_none=True)
    if state is not None:
        state.unlink(missing_ok=True)
    return {name: total / count for name, total in moved(sums, _CPU).items()}


def _loss(model: Segmenter, images: Tensor, labels: Tensor) -> Tensor:
    """Compute the loss that a model's head is trained by; masks of queries are compared at the same points always."""
    form, size = model.decoder.form, (labels.shape[-2], labels.shape[-1])
    if isinstance(form, QueryMasks):
        generator = torch.Generator(images.device).manual_seed(0)
        return query_loss(*form.unpacked(model.patch_scores(images), size), labels, generator)
    return F.cross_entropy(model(images).float(), labels.long(), ignore_index=IGNORE)


def _restore(state: Path | None) -> tuple[Saliency, int]:
    """Load the partial sums and their number of batches."""
    if state is None or not state.is_file():
        return {}, 0
    with safe_open(state, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, int(file.metadata()["batches"])  # noqa: SIM118


def from_gradients(model: Segmenter, criterion: Criterion) -> Saliency:
    """Score every unit by one batch's gradients, stored in the model's parameters; results stay on their device."""
    sums = _linked_sums(model, criterion)
    by_unit: Saliency = {}
    for name, total in sums.items():
        place, _, kind = name.rpartition(".")
        if kind == "gated":
            hidden = f"{place}.mlp"
            by_unit[hidden] = total.view(2, -1).sum(0) + sums.get(hidden, 0)
        elif kind == "qkv":
            by_unit |= _in_heads(model, criterion, place, sums)
        elif kind not in ("v", "qk"):  # both belong to the rows of qkv
            by_unit.setdefault(name, total)
    divisors = DIVISORS[criterion]
    scores: Saliency = {}
    for name, total in by_unit.items():
        divisor = divisors[name.rpartition(".")[2]]
        scores[name] = (total / divisor) ** 2 if criterion == "nvit" else total**2 / divisor
    return scores


def _in_heads(model: Segmenter, criterion: Criterion, place: str, sums: Saliency) -> Saliency:
    """Sum what is linked to the heads of a block, and to their QK and V units."""
    widths = block_widths(model.shape, model.recipe, place)
    heads, qk, v = widths.heads, widths.qk, widths.v
    parts = sums[f"{place}.qkv"].split((heads * qk, heads * qk, heads * v))
    query, key, value = (part.view(heads, -1) for part in parts)
    if criterion == "taylor":
        value = value + sums[f"{place}.v"].view(heads, -1)
        if (norms := sums.get(f"{place}.qk")) is not None:
            query = query + norms.view(heads, -1)
    in_qk = query + key if criterion == "taylor" else query
    if turned(model.shape, place):  # a pair is one unit; each half gets half of its sum
        in_qk = (in_qk.view(heads, 2, -1).sum(1, keepdim=True) / 2).expand(-1, 2, -1).flatten(1)
    in_v = value
    if criterion == "nvit":  # a unit spans all heads
        in_qk, in_v = (part.sum(0).expand(heads, -1) for part in (in_qk, in_v))
    return {f"{place}.head": query.sum(1) + key.sum(1) + value.sum(1), f"{place}.qk": in_qk, f"{place}.v": in_v}


def _linked_sums(model: Segmenter, criterion: Criterion) -> dict[str, Tensor]:
    """Sum w * dL/dw over the weights linked to each unit, by the axes of the layout."""
    sums: dict[str, Tensor] = {}
    for name, parameter, units in axes(model):
        if parameter.grad is None:
            continue
        product = (parameter.detach().double() * parameter.grad.double())[..., None]  # flatten needs two axes
        for axis, unit in enumerate(units):
            if unit is not None and (criterion == "taylor" or _linked_in_nvit(name, axis, unit)):
                total = product.movedim(axis, 0).flatten(1).sum(1)
                sums[unit] = sums[unit] + total if unit in sums else total
    return sums


def _linked_in_nvit(parameter: str, axis: int, unit: str) -> bool:
    """Return whether NViT counts an axis of a parameter towards its units.

    Norms, special tokens, positions and class embeddings are cut but not counted, nor are the inputs of the
    classifier: the decoder for the encoder's units, the mask projections for the decoder's.
    """
    if unit == "decoder.out":
        return True
    if unit == "embed" and parameter.startswith("decoder."):
        return False
    layer, _, kind = parameter.rpartition(".")
    if "norm" in layer or kind not in ("weight", "bias"):
        return False
    return axis == 0 or (unit.endswith("embed") and ".blocks." in layer)


def block_widths(shape: ModelShape, recipe: Recipe, place: str) -> BlockWidths:
    """Return the widths of the block that a layout prefix (`block.i`, `decoder.block.i`) names."""
    if not place.startswith("decoder."):
        return recipe.blocks[int(place.rpartition(".")[2])]
    return decoder_widths(shape, recipe.embed)


def turned(shape: ModelShape, place: str) -> bool:
    """Return whether rotary position turns the queries and keys of a block: units j and j + width/2 are a pair."""
    return shape.position == "rotary" and not place.startswith("decoder.")


def save(saliency: Saliency, path: AnyPath, batches: int = 0) -> None:
    """Write scores atomically; `batches` is the number of batches in a partial sum."""
    tensors = {name: score.clone(memory_format=torch.contiguous_format) for name, score in saliency.items()}
    with written(path) as temporary:
        save_file(tensors, temporary, {"batches": str(batches)})


def load(path: Path) -> Saliency:
    """Read scores that `save` wrote."""
    return load_file(path)
