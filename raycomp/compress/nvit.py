# SPDX-License-Identifier: Apache-2.0
"""NViT: prune step by step to a target cost, by one global saliency threshold.

Yang et al., "Global Vision Transformer Pruning with Hessian-Aware Saliency", CVPR 2023 (REFERENCE 7).
Units are removed in groups (16 embedding channels, 2 heads, 8 QK, 8 V, 16 MLP channels), sorted within
their layer; the group with the lowest score in the model goes first. After each round the smaller model
is optionally retrained, and scored again. The result is a recipe with widths per block. No sublayer is
dropped; those that the model lacks at the start stay away.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from raycomp.compress.pruning import kept_in_heads, kept_units, prune
from raycomp.compress.saliency import Saliency, block_widths, turned
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe
from raycomp.settings.comparison import NvitConfig
from raycomp.shape import ModelShape

_FIELDS = {"head": "heads", "qk": "qk", "v": "v", "mlp": "mlp"}

Cost = Callable[[Recipe], float]
Layer = tuple[int, str]  # block, or -1 for the embedding; kind of unit


@dataclass(frozen=True)
class Pruned:
    """Result of pruning."""

    model: Segmenter
    """Pruned model; its recipe holds the widths."""
    cost: float
    reached: bool
    """False if no group was left to prune before the target was reached."""


def nvit(
    model: Segmenter,
    scores: Saliency,
    rescore: Callable[[Segmenter], Saliency],
    target: float,
    cost: Cost,
    config: NvitConfig,
    latency: Cost | None = None,
    retrain: Callable[[Segmenter, int], Segmenter] | None = None,
) -> Pruned:
    """Prune a dense model until its recipe costs at most `target`.

    Args:
        scores: saliency of the dense model, by `config.criterion`.
        rescore: computes the saliency of a pruned model, by the same criterion.
        target: in the unit of `cost`, GFLOPs or milliseconds.
        cost: returns the cost of a recipe.
        latency: returns a recipe's milliseconds on the target device, for the latency term of the score,
            which `config.latency_weight` weighs.
        retrain: fine-tunes a pruned model, given the model and the number of its round, from 1.
    """
    shape, recipe, first = model.shape, model.recipe, cost(model.recipe)
    rounds = config.rounds if first > target else 0
    for step in range(1, rounds + 1):
        if step > 1:
            if retrain is not None:
                model = retrain(model, step - 1)
            scores = _averaged(scores, rescore(model), config.momentum)
        aim = first * (target / first) ** (step / config.rounds)
        recipe = _Round(shape, scores, recipe, config, cost, latency).remove(aim, floor=config.tolerance * target)
        model, scores = prune(model, recipe, scores), surviving(scores, shape, recipe)
    return Pruned(model, cost(recipe), cost(recipe) <= target)


def _averaged(before: Saliency, now: Saliency, momentum: float) -> Saliency:
    return {name: momentum * before[name] + (1 - momentum) * score for name, score in now.items()}


def surviving(scores: Saliency, shape: ModelShape, recipe: Recipe) -> Saliency:
    """Return the scores of the units that `prune` keeps, at their positions in the pruned model."""
    kept = kept_units(shape, recipe, scores)
    remaining: Saliency = {}
    for name, score in scores.items():
        block, _, kind = name.rpartition(".")
        if kind not in ("head", "qk", "v"):
            if name in kept:  # and not of a dropped MLP
                remaining[name] = score[kept[name]]
            continue
        if f"{block}.qkv" not in kept:  # a dropped attention
            continue
        head, in_qk, in_v = kept_in_heads(
            scores, block, block_widths(shape, recipe, block), paired=turned(shape, block)
        )
        remaining[name] = score[head] if kind == "head" else score[head[:, None], in_qk if kind == "qk" else in_v]
    return remaining


@dataclass
class _Round:
    """One round of removals with fixed scores."""

    shape: ModelShape
    scores: Saliency
    recipe: Recipe
    config: NvitConfig
    cost: Cost
    latency: Cost | None
    _heap: list[tuple[float, Layer, int]] = field(default_factory=list)
    _version: dict[Layer, int] = field(default_factory=dict)
    """How often each layer was pushed on the heap; entries of an older version are stale."""

    def remove(self, aim: float, floor: float) -> Recipe:
        """Remove the lowest-scoring groups until the recipe costs at most `aim`, but never less than `floor`."""
        layers = [(-1, "embed"), *((block, kind) for block in range(self.shape.depth) for kind in _FIELDS)]
        closed: set[Layer] = set()
        for layer in layers:
            self._push(layer)
        while self._heap and self.cost(self.recipe) > aim:
            _, layer, version = heapq.heappop(self._heap)
            smaller = self._without(layer)
            if version != self._version[layer] or smaller is None:
                continue
            if self.cost(smaller) < floor:
                closed.add(layer)
                continue
            self.recipe = smaller
            for other in self._changed_by(layer, layers):
                if other not in closed:
                    self._push(other)
        return self.recipe

    def _changed_by(self, layer: Layer, layers: list[Layer]) -> list[Layer]:
        """Return the layers whose next score a removal changes.

        These are the layer itself, and QK and V of a block that lost heads. With a latency term, in which widths
        multiply, they are all layers of the block, or of the model after a cut of the embedding.
        """
        block, kind = layer
        timed = self.latency is not None and self.config.latency_weight > 0
        if kind == "embed":
            return layers if timed else [layer]
        if timed:
            return [(-1, "embed"), *((block, other) for other in _FIELDS)]
        return [layer, (block, "qk"), (block, "v")] if kind == "head" else [layer]

    def _push(self, layer: Layer) -> None:
        smaller = self._without(layer)
        if smaller is None:
            return
        score = self._score(layer)
        if self.latency is not None and self.config.latency_weight:
            score -= self.config.latency_weight * (self.latency(self.recipe) - self.latency(smaller))
        self._version[layer] = self._version.get(layer, 0) + 1
        heapq.heappush(self._heap, (score, layer, self._version[layer]))

    def _without(self, layer: Layer) -> Recipe | None:
        """Return the recipe without a layer's next group; None if too few units would remain."""
        block, kind = layer
        group = getattr(self.config, _FIELDS.get(kind, kind))
        if kind == "embed":
            left = self.recipe.embed - group
            return self.recipe.model_copy(update={"embed": left}) if left >= group else None
        widths = self.recipe.blocks[block]
        left = getattr(widths, _FIELDS[kind]) - group
        if left < (1 if kind == "head" else group):
            return None
        blocks = list(self.recipe.blocks)
        blocks[block] = widths.model_copy(update={_FIELDS[kind]: left})
        return self.recipe.model_copy(update={"blocks": tuple(blocks)})

    def _score(self, layer: Layer) -> float:
        """Sum the scores of a layer's next group: the lowest-scoring units that remain.

        NViT's QK and V units span all heads and have one score; Taylor's have one per head, which are added up.
        """
        block, kind = layer
        if kind == "embed":
            return self._lowest(self.scores["embed"], self.recipe.embed, self.config.embed)
        widths, place = self.recipe.blocks[block], f"block.{block}"
        if kind == "mlp":
            return self._lowest(self.scores[f"{place}.mlp"], widths.mlp, self.config.mlp)
        if kind == "head":
            return self._lowest(self.scores[f"{place}.head"], widths.heads, self.config.heads)
        head, _, _ = kept_in_heads(self.scores, place, widths, paired=turned(self.shape, place))
        width, group = (widths.qk, self.config.qk) if kind == "qk" else (widths.v, self.config.v)
        by_head = self.scores[f"{place}.{kind}"][head]
        return self._lowest(by_head[0] if self.config.criterion == "nvit" else by_head, width, group)

    def _lowest(self, scores: Tensor, kept: int, group: int) -> float:
        """Sum the `group` lowest among the `kept` highest scores along the last axis."""
        ordered = scores.sort(dim=-1, descending=True).values
        return float(ordered[..., kept - group : kept].sum())
