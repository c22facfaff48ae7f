"""NViT: prune by one global threshold on saliency, a little at a time, to a target cost.

Yang et al., "Global Vision Transformer Pruning with Hessian-Aware Saliency", CVPR 2023 (REFERENCE 7).
Units are taken in groups (16 embedding channels, 2 heads, 8 QK, 8 V, 16 MLP channels), sorted within
their layer; the group of least score in the whole model goes first. After each round the smaller model
trains on, where wanted, and is scored anew. Widths come out per block, as a recipe.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from raycomp.compress.pruning import kept_in_heads, kept_units, prune
from raycomp.compress.saliency import Saliency, attention_widths
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe
from raycomp.settings.comparison import NvitConfig
from raycomp.shape import ModelShape

_FIELDS = {"head": "heads", "qk": "qk", "v": "v", "mlp": "mlp"}

Cost = Callable[[Recipe], float]
Layer = tuple[int, str]  # block, or -1 for the embedding; kind of unit


@dataclass(frozen=True)
class Pruned:
    """Where the pruning ended."""

    model: Segmenter
    """Its recipe has the widths."""
    cost: float
    reached: bool
    """False when no group was left to prune before the target."""


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
        rescore: saliency of a pruned model, by the same.
        target: in the unit of `cost`, GFLOPs or milliseconds.
        cost: of a recipe.
        latency: milliseconds of a recipe on the device at hand, for the latency term of the score;
            it is weighted by `config.latency_weight`.
        retrain: trains a pruned model on, given it and the number of the round that made it, from 1.
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
    """Scores of the units that `prune` keeps of a model, at their places in the pruned one."""
    kept = kept_units(shape, recipe, scores)
    left: Saliency = {}
    for name, score in scores.items():
        block, _, kind = name.rpartition(".")
        if kind not in ("head", "qk", "v"):
            left[name] = score[kept[name]]
            continue
        head, in_qk, in_v = kept_in_heads(scores, block, *attention_widths(shape, recipe, block))
        left[name] = score[head] if kind == "head" else score[head[:, None], in_qk if kind == "qk" else in_v]
    return left


@dataclass
class _Round:
    """One round of removals on fixed scores."""

    shape: ModelShape
    scores: Saliency
    recipe: Recipe
    config: NvitConfig
    cost: Cost
    latency: Cost | None
    _heap: list[tuple[float, Layer, int]] = field(default_factory=list)
    _version: dict[Layer, int] = field(default_factory=dict)
    """Counts how often a layer's score was put on the heap; older entries are out of date."""

    def remove(self, aim: float, floor: float) -> Recipe:
        """Take groups of least score until the recipe costs at most `aim`; none that would cost less than `floor`."""
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
        """Layers whose next score a removal changes: its own, QK and V of a block that lost heads, and where time
        counts, as the widths of a block multiply in it, all of the block, or of the model."""
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
        """The recipe without a layer's next group; None where too little would stay."""
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
        """Sum over the units of a layer's next group: those of least score that still stay.

        NViT's QK and V units span all heads and have one score; the others have one in each head, which add up.
        """
        block, kind = layer
        if kind == "embed":
            return self._least(self.scores["embed"], self.recipe.embed, self.config.embed)
        widths, place = self.recipe.blocks[block], f"block.{block}"
        if kind == "mlp":
            return self._least(self.scores[f"{place}.mlp"], widths.mlp, self.config.mlp)
        if kind == "head":
            return self._least(self.scores[f"{place}.head"], widths.heads, self.config.heads)
        head, _, _ = kept_in_heads(self.scores, place, widths.heads, widths.qk, widths.v)
        width, group = (widths.qk, self.config.qk) if kind == "qk" else (widths.v, self.config.v)
        by_head = self.scores[f"{place}.{kind}"][head]
        return self._least(by_head[0] if self.config.criterion == "nvit" else by_head, width, group)

    def _least(self, scores: Tensor, kept: int, group: int) -> float:
        """Sum of the `group` lowest among the `kept` highest scores along the last axis."""
        ordered = scores.sort(dim=-1, descending=True).values
        return float(ordered[..., kept - group : kept].sum())
