"""NViT: prune by one global threshold on Hessian-aware saliency, a little at a time, to a target cost.

Yang et al., "Global Vision Transformer Pruning with Hessian-Aware Saliency", CVPR 2023 (REFERENCE 7).
Units are taken in groups (16 embedding channels, 2 heads, 8 QK, 8 V, 16 MLP channels), sorted within
their layer; the group of least score in the whole model goes first. After each round the smaller model
is scored anew. Widths come out per block, as a recipe.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from raycomp.compress.prune import kept_in_heads, kept_units, prune
from raycomp.compress.saliency import Saliency, attention_widths
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe
from raycomp.sections import NvitConfig
from raycomp.shape import ModelShape

GONE = -1.0
"""Score of a unit that is pruned already: below every score, which are squares."""
_FIELDS = {"head": "heads", "qk": "qk", "v": "v", "mlp": "mlp"}

Cost = Callable[[Recipe], float]
Layer = tuple[int, str]  # block, or -1 for the embedding; kind of unit


@dataclass(frozen=True)
class Pruned:
    """Where the pruning ended; `prune(model, recipe, scores)` builds it from the dense model."""

    recipe: Recipe
    scores: Saliency
    """For the dense model's units: the last scores, -1 for a pruned unit."""
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
) -> Pruned:
    """Prune a dense model until its recipe costs at most `target`.

    Args:
        scores: saliency of the dense model.
        rescore: saliency of a pruned model.
        target: in the unit of `cost`, GFLOPs or milliseconds.
        cost: of a recipe.
        latency: milliseconds of a recipe on the device at hand, for the latency term of the score;
            it is weighted by `config.latency_weight`.
    """
    recipe, first = model.recipe, cost(model.recipe)
    rounds = config.rounds if first > target else 0
    for step in range(1, rounds + 1):
        if step > 1:
            small = prune(model, recipe, scores)
            scores = spread(rescore(small), model.shape, recipe, scores)
        aim = first * (target / first) ** (step / config.rounds)
        recipe = _Round(model.shape, scores, recipe, config, cost, latency).remove(aim, floor=config.tolerance * target)
    return Pruned(recipe, settled(scores, model.shape, recipe), cost(recipe), cost(recipe) <= target)


def spread(found: Saliency, shape: ModelShape, recipe: Recipe, scores: Saliency) -> Saliency:
    """Scores of a pruned model's units, put at their places in the dense model; the others are GONE."""
    full = {name: torch.full_like(score, GONE) for name, score in scores.items()}
    for name, place in _places(shape, recipe, scores).items():
        full[name][place] = found[name]
    return full


def settled(scores: Saliency, shape: ModelShape, recipe: Recipe) -> Saliency:
    """Scores with every unit that the recipe prunes GONE, so that they alone say what stays."""
    kept = {name: scores[name][place] for name, place in _places(shape, recipe, scores).items()}
    return spread(kept, shape, recipe, scores)


def _places(shape: ModelShape, recipe: Recipe, scores: Saliency) -> dict[str, tuple[Tensor, ...]]:
    """For each kind of score, the indices of the dense model's units that the recipe keeps."""
    kept = kept_units(shape, recipe, scores)
    places: dict[str, tuple[Tensor, ...]] = {}
    for name in scores:
        block, _, kind = name.rpartition(".")
        if kind not in ("head", "qk", "v"):
            places[name] = (kept[name],)
            continue
        head, in_qk, in_v = kept_in_heads(scores, block, *attention_widths(shape, recipe, block))
        places[name] = (head,) if kind == "head" else (head[:, None], in_qk if kind == "qk" else in_v)
    return places


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
        if left < (self.config.least_heads if kind == "head" else group):
            return None
        blocks = list(self.recipe.blocks)
        blocks[block] = widths.model_copy(update={_FIELDS[kind]: left})
        return self.recipe.model_copy(update={"blocks": tuple(blocks)})

    def _score(self, layer: Layer) -> float:
        """Sum over the units of a layer's next group: those of least score that still stay."""
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
        return self._least(self.scores[f"{place}.{kind}"][head], width, group)

    def _least(self, scores: Tensor, kept: int, group: int) -> float:
        """Sum of the `group` lowest among the `kept` highest scores along the last axis."""
        ordered = scores.sort(dim=-1, descending=True).values
        return float(ordered[..., kept - group : kept].sum())
