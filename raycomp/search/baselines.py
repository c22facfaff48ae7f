# SPDX-License-Identifier: Apache-2.0
"""Baselines: recipes one would try by hand, each matched to a target cost. A sweep starts with them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from raycomp.flops import gflops
from raycomp.match_cost import match_cost
from raycomp.merging import METHODS, MergeMethod
from raycomp.recipe import BlockWidths, Recipe, dense
from raycomp.results.query import UNIFORM, UNIFORM_BOTH, UNIFORM_PRUNING
from raycomp.settings.space_and_search import SpaceConfig
from raycomp.settings.training import PolicyConfig
from raycomp.shape import ModelShape, Size

Cost = Callable[[Recipe], float]

_NARROWER = "MLP 75% + "
_BEST_FIRST = (UNIFORM_BOTH, UNIFORM_PRUNING, UNIFORM, _NARROWER, "")
"""Prefixes of kinds, ordered by the mIoU they keep on street scenes at half the dense GFLOPs or less; uniform baselines
come first."""
_MULTIPLE = 8  # widths are rounded to this multiple, which suits the hardware
_MOST_PRUNED = 0.9


@dataclass(frozen=True, slots=True)
class Baseline:
    """A recipe matched by hand; `share` is its target cost relative to the dense cost."""

    kind: str
    share: float
    recipe: Recipe

    @property
    def label(self) -> str:
        return f"{self.kind} {self.share:.0%}"


def matched_baselines(
    shape: ModelShape,
    image: Size,
    shares: tuple[float, ...],
    cost: Cost | None = None,
    narrowest: Recipe | None = None,
    merging: MergeMethod | None = None,
) -> Iterator[Baseline]:
    """Yield the baselines that can reach each share of the dense cost, largest share first.

    Args:
        cost: Cost of a recipe; GFLOPs by default.
        narrowest: Recipe with the smallest widths allowed.
        merging: The merge method, with any settings; by default the one of a space that names none.
    """
    merging = merging or METHODS[SpaceConfig().merge].standard(shape, PolicyConfig().kind)
    schedules = merging.schedules(shape, image)
    last = list(schedules)[-1]
    cost = cost or (lambda recipe: gflops(shape, recipe, image))
    full, narrower = dense(shape), _with_mlp(shape, 0.75)
    for share in sorted(shares, reverse=True):
        target = share * cost(full)
        half_way = _at_cost(lambda s: pruned(shape, s, narrowest), cost, cost(full) * share**0.5)
        builders = {f"{name} {merging.title}": _merging(full, merge) for name, merge in schedules.items()}
        builders[UNIFORM_PRUNING] = lambda s: pruned(shape, s, narrowest)
        builders[f"{_NARROWER}{last} {merging.title}"] = _merging(narrower, schedules[last])
        if half_way is not None:
            builders[UNIFORM_BOTH + merging.title] = _merging(half_way, schedules["uniform"])
        for kind, build in builders.items():
            recipe = _at_cost(build, cost, target)
            if recipe is not None:
                filled = _filled(recipe, shape, cost, target) if kind == UNIFORM_PRUNING else recipe
                yield Baseline(kind, share, filled)


def by_priority(baselines: Iterable[Baseline]) -> list[Baseline]:
    """Order baselines by priority, for sweeps with few trials.

    The best kind comes first. Within a kind, the most and least expensive precede the others, to span the costs.
    """
    baselines = list(baselines)
    kinds = sorted(dict.fromkeys(baseline.kind for baseline in baselines), key=_rank)
    groups = [[baseline for baseline in baselines if baseline.kind == kind] for kind in kinds]
    return [baseline for group in groups for baseline in (*group[:1], *group[1:][-1:], *group[1:-1])]


def _rank(kind: str) -> int:
    return next(rank for rank, start in enumerate(_BEST_FIRST) if kind.startswith(start))


def pruned(shape: ModelShape, strength: float, narrowest: Recipe | None = None) -> Recipe:
    """Cut every width by the same share; keep all heads, as `qk` and `v` cut the same units in finer steps.

    With `narrowest`, move every width and the number of heads the same share of the way to its widths.
    """
    low = {} if narrowest is None else _widths(narrowest)
    cut = {}
    for name, width in _widths(dense(shape)).items():
        end = low.get(name, width if name == "heads" else (1 - _MOST_PRUNED) * width)
        cut[name] = _multiple(width - strength * (width - end), width, 1 if name == "heads" else _MULTIPLE)
    return Recipe(embed=cut.pop("embed"), blocks=(BlockWidths(**cut),) * shape.depth)


def _widths(recipe: Recipe) -> dict[str, int]:
    """Return every width by name; a block width is the minimum over the blocks."""
    names = ("heads", "qk", "v", "mlp")
    return {"embed": recipe.embed} | {name: min(getattr(block, name) for block in recipe.blocks) for name in names}


def _with_mlp(shape: ModelShape, keep: float) -> Recipe:
    full = dense(shape)
    narrow = full.blocks[0].model_copy(update={"mlp": _multiple(keep * shape.mlp, shape.mlp)})
    return Recipe(embed=full.embed, blocks=(narrow,) * shape.depth)


def _merging(widths: Recipe, schedule: Callable[[float], MergeMethod]) -> Callable[[float], Recipe]:
    return lambda strength: widths.merging(schedule(strength))


def _multiple(value: float, high: int, multiple: int = _MULTIPLE) -> int:
    return min(high, max(multiple, int(value / multiple + 0.5) * multiple))


def _at_cost(build: Callable[[float], Recipe], cost: Cost, target: float) -> Recipe | None:
    """Return the weakest recipe that costs at most `target`, or None if full strength costs more."""
    return match_cost(build, cost, target).below


def _filled(recipe: Recipe, shape: ModelShape, cost: Cost, target: float) -> Recipe:
    """Spend the budget left by rounding on MLP channels, equally in every block."""
    block = recipe.blocks[0]
    for mlp in range(block.mlp + _MULTIPLE, shape.mlp + 1, _MULTIPLE):
        wider = recipe.model_copy(update={"blocks": (block.model_copy(update={"mlp": mlp}),) * shape.depth})
        if cost(wider) > target:
            break
        recipe = wider
    return recipe
