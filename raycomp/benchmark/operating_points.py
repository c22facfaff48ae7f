# SPDX-License-Identifier: Apache-2.0
"""Find the operating point of each method at target GFLOPs: the strength of merging, NViT's pruning, or both."""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch

from raycomp.benchmark.conditions import Condition
from raycomp.compress.apply import compress, let_merge, remerge
from raycomp.compress.pruning import prune
from raycomp.compress.saliency import Saliency
from raycomp.context.sweep_context import SweepContext
from raycomp.data.evalset import CLEAN
from raycomp.data.samples import Samples
from raycomp.errors import UserError
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.evaluate.sliding import enlarged, places
from raycomp.evaluate.token_counts import recorded
from raycomp.files import fetched, written
from raycomp.flops import gflops, profile
from raycomp.match_cost import match_cost
from raycomp.models import checkpoints
from raycomp.models.segmenter import Segmenter
from raycomp.objectives import mean_accuracy
from raycomp.recipe import Recipe, dense
from raycomp.recover import pruned_by_nvit
from raycomp.results.row import Row, present
from raycomp.storage import AnyPath

TOLERANCE = 0.01
"""Maximum difference of a point's GFLOPs from the target, relative to it."""
_CLOSE = 0.002  # relative difference at which matching stops if a cost takes seconds to measure


@dataclass(frozen=True)
class OperatingPoint:
    """The recipe of a method at target GFLOPs."""

    recipe: Recipe
    gflops: float
    """For adaptive merging, the mean over the clean evaluation images."""
    target: float
    text: str
    """The point in the paper's terms: `r = 9.5`, `T = 0.88`, `R = 0.42`."""
    pruned: Segmenter | None = None
    """The pruned model without merging; None for a model cut by the context's scores alone."""

    @property
    def reached(self) -> bool:
        """Whether the method costs at most 1 % more than the target."""
        return self.gflops <= self.target * (1 + TOLERANCE)

    def save(self, folder: AnyPath, condition: Condition, fingerprint: str) -> None:
        """Write the point after its model, so that a point on disk is complete; see `fingerprint_of`."""
        if self.pruned is not None:
            checkpoints.save(self.pruned, folder / f"{condition.slug}.safetensors")
        values = {
            "recipe": self.recipe.model_dump(mode="json"),
            "gflops": self.gflops,
            "target": self.target,
            "text": self.text,
            "mark": fingerprint,
        }
        with written(folder / f"{condition.slug}.json") as temporary:
            temporary.write_text(json.dumps(values, indent=1))

    @classmethod
    def load(cls, folder: AnyPath, condition: Condition, fingerprint: str) -> "OperatingPoint | None":
        """Read a point; None if it has not been found yet.

        Raises:
            UserError: If it was found with other weights, images or scores.
        """
        path, weights = folder / f"{condition.slug}.json", folder / f"{condition.slug}.safetensors"
        if not path.is_file():
            return None
        stored = json.loads(path.read_text())
        if stored["mark"] != fingerprint:
            raise UserError(f"{path}: found with other weights, images or scores than now; choose another --name")
        pruned = None
        if weights.is_file():
            with fetched(weights) as local:
                pruned = checkpoints.load(local)
        recipe = Recipe.model_validate(stored["recipe"])
        return cls(recipe, stored["gflops"], stored["target"], stored["text"], pruned)


def fingerprint_of(context: SweepContext, condition: Condition) -> str:
    """Return a string that changes with the weights, policy network, images or scores behind a condition's point."""
    merging = condition.merging
    parts = (
        context.config.nvit.criterion if condition.prunes else "",
        context.policy_checkpoint if condition.needs_policy else "",
        merging.revision if merging else "",
    )
    return " ".join(filter(None, (context.checkpoint, context.evalset.fingerprint, *parts)))


def built(context: SweepContext, point: OperatingPoint) -> Segmenter:
    """Return the compressed model of a point, before recovery."""
    if point.pruned is None:
        return compress(context.model, point.recipe, context.saliency, context.policy)
    model = deepcopy(point.pruned)
    let_merge(model, point.recipe, context.policy)
    return model


def find(
    context: SweepContext,
    condition: Condition,
    device: torch.device,
    latency: LatencyTable | None = None,
    samples: Samples | None = None,
) -> OperatingPoint:
    """Return the point of a condition's method that is nearest to the target, which it may miss.

    Args:
        latency: Table for NViT's latency term, if enabled.
        samples: Training images for NViT's training between rounds; None opens the data set.
    """
    shape, window = context.shape, context.window
    dense_cost = gflops(shape, dense(shape), window)
    target = dense_cost / condition.speedup
    start = OperatingPoint(dense(shape), dense_cost, target, "")
    if condition.prunes:
        pruning_target = target if condition.merging is None else dense_cost / condition.speedup**0.5
        start = find_nvit(context, pruning_target, device, latency, samples)
    if condition.merging is None:
        return start
    merge = condition.merging.standard(shape, context.config.policy.kind)
    if merge.adaptive:
        model = built(context, replace(start, recipe=start.recipe.merging(merge)))
        point = find_adaptive(context, model, target, device)
    else:
        matched = match_cost(
            lambda s: start.recipe.merging(merge.at(s, shape, window)), lambda r: gflops(shape, r, window), target
        )
        recipe, cost = matched.nearest(target, TOLERANCE)
        text = (recipe.merge or merge.at(0.0, shape, window)).operating_point(shape, window)
        point = OperatingPoint(recipe, cost, target, text)
    if not condition.prunes:
        return point
    return replace(point, text=f"NViT to {start.gflops / dense_cost:.0%}, {point.text}", pruned=start.pruned)


def from_front(members: Sequence[Row], scores: Saliency, context: SweepContext, condition: Condition) -> OperatingPoint:
    """Return the front member of a finished sweep with the best mean mIoU that costs at most the target.

    If every member costs more, return the cheapest.

    Args:
        scores: Saliency scores that the sweep prunes by.
    """
    shape, window = context.shape, context.window
    target = gflops(shape, dense(shape), window) / condition.speedup
    affordable = [row for row in members if present(row.gflops) <= target * (1 + TOLERANCE)]
    row = max(affordable, key=mean_accuracy, default=None) or min(members, key=lambda row: present(row.gflops))
    cost, model = gflops(shape, row.recipe, window), prune(context.model, row.recipe, scores)
    return OperatingPoint(row.recipe, cost, target, f"recipe {row.recipe_id}", model)


def find_adaptive(context: SweepContext, model: Segmenter, target: float, device: torch.device) -> OperatingPoint:
    """Return the point where the adaptive merging of a model, with its current weights, costs the target on average."""
    shape, window, recipe, merge = context.shape, context.window, model.recipe, model.recipe.merge
    assert merge is not None
    model = model.to(device)
    matched = match_cost(
        lambda strength: recipe.merging(merge.at(strength, shape, window)),
        lambda tried: measured_gflops(context, model, tried, device),
        target,
        _CLOSE,
    )
    nearest, cost = matched.nearest(target, TOLERANCE)
    return OperatingPoint(nearest, cost, target, (nearest.merge or merge).operating_point(shape, window))


def measured_gflops(context: SweepContext, model: Segmenter, recipe: Recipe, device: torch.device) -> float:
    """Return the mean GFLOPs of a model with a recipe's merging over single windows of all clean evaluation images."""
    remerge(model, recipe)
    shape, window, stride = context.shape, context.window, context.config.data.stride_for(context.shape)
    last = shape.depth if recipe.merge is None else recipe.merge.last_block(shape.depth)
    images, dtype = context.evalset.images.views(), getattr(torch, context.config.evaluation.dtype)
    model = model.to(dtype)
    with recorded(model) as passes, torch.inference_mode():
        for index in np.flatnonzero(context.evalset.variants == CLEAN):
            x = enlarged(context.normalised(images[index][None], device, dtype), window)
            for place in places((x.shape[-2], x.shape[-1]), window, stride):
                model.encoder(x[(..., *place)], depth=last)
    full = [[*tokens, *[tokens[-1]] * (shape.depth - last)] for tokens in passes]
    return float(np.mean([profile(shape, recipe, window, tokens).gflops for tokens in full]))


def find_nvit(
    context: SweepContext, target: float, device: torch.device, latency: LatencyTable | None, samples: Samples | None
) -> OperatingPoint:
    """Return NViT's model at a target, pruned as `context.config.nvit` configures; see `find`."""
    shape, window = context.shape, context.window
    result = pruned_by_nvit(context, lambda tried: gflops(shape, tried, window), target, device, latency, samples)
    recipe = result.model.recipe
    heads = sum(block.heads for block in recipe.blocks) / shape.depth
    mlp = sum(block.mlp for block in recipe.blocks) / shape.depth
    text = f"EMB {recipe.embed}, H {heads:.1f}, MLP {mlp:.0f}"
    return OperatingPoint(recipe, result.cost, target, text, result.model)
