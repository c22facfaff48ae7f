"""Recipes people would try by hand, each matched to a target cost: the start of a sweep and its baselines."""

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
"""How kinds begin, by the accuracy that street scenes keep at half of the dense GFLOPs and below, the baselines before
others."""
_MULTIPLE = 8  # widths that hardware likes
_MOST_PRUNED = 0.9


@dataclass(frozen=True, slots=True)
class Baseline:
    """A known recipe; `share` is the target it was matched to, relative to the dense cost."""

    kind: str
    share: float
    recipe: Recipe

    @property
    def label(self) -> str:
        return f"{self.kind} {self.share:.0%}"


def known(
    shape: ModelShape,
    image: Size,
    shares: tuple[float, ...],
    cost: Cost | None = None,
    least: Recipe | None = None,
    merging: MergeMethod | None = None,
) -> Iterator[Baseline]:
    """Baseline recipes at each share of the dense cost that they can reach, most expensive first.

    Args:
        cost: of a recipe; by default GFLOPs.
        least: the narrowest widths allowed.
        merging: any settings of the method that merges; by default those of spaces that name none.
    """
    merging = merging or METHODS[SpaceConfig().merge].standard(shape, PolicyConfig().kind)
    schedules = merging.schedules(shape, image)
    last = list(schedules)[-1]
    cost = cost or (lambda recipe: gflops(shape, recipe, image))
    whole, narrower = dense(shape), _with_mlp(shape, 0.75)
    for share in sorted(shares, reverse=True):
        target = share * cost(whole)
        half_way = _at_cost(lambda s: pruned(shape, s, least), cost, cost(whole) * share**0.5)
        builders = {f"{name} {merging.title}": _merging(whole, merge) for name, merge in schedules.items()}
        builders[UNIFORM_PRUNING] = lambda s: pruned(shape, s, least)
        builders[f"{_NARROWER}{last} {merging.title}"] = _merging(narrower, schedules[last])
        if half_way is not None:
            builders[UNIFORM_BOTH + merging.title] = _merging(half_way, schedules["uniform"])
        for kind, build in builders.items():
            recipe = _at_cost(build, cost, target)
            if recipe is not None:
                filled = _filled(recipe, shape, cost, target) if kind == UNIFORM_PRUNING else recipe
                yield Baseline(kind, share, filled)


def by_priority(found: Iterable[Baseline]) -> list[Baseline]:
    """Order known recipes by priority when trials are few.

    The best kind comes first; of each, the dearest and the cheapest before those between, so that it spans the costs.
    """
    there = list(found)
    kinds = sorted(dict.fromkeys(one.kind for one in there), key=_rank)
    by_kind = [[one for one in there if one.kind == kind] for kind in kinds]
    return [one for own in by_kind for one in (*own[:1], *own[1:][-1:], *own[1:-1])]


def _rank(kind: str) -> int:
    return next(rank for rank, start in enumerate(_BEST_FIRST) if kind.startswith(start))


def pruned(shape: ModelShape, strength: float, least: Recipe | None = None) -> Recipe:
    """Every width cut by the same share, heads excepted, which would be a coarser cut of the same.

    With `least`, every width and the heads go the same share of the way to its narrowest ones.
    """
    low = {} if least is None else _widths(least)
    cut = {}
    for name, width in _widths(dense(shape)).items():
        end = low.get(name, width if name == "heads" else (1 - _MOST_PRUNED) * width)
        cut[name] = _multiple(width - strength * (width - end), width, 1 if name == "heads" else _MULTIPLE)
    return Recipe(embed=cut.pop("embed"), blocks=(BlockWidths(**cut),) * shape.depth)


def _widths(recipe: Recipe) -> dict[str, int]:
    """Every width by name; of the blocks, the least."""
    names = ("heads", "qk", "v", "mlp")
    return {"embed": recipe.embed} | {name: min(getattr(block, name) for block in recipe.blocks) for name in names}


def _with_mlp(shape: ModelShape, keep: float) -> Recipe:
    whole = dense(shape)
    narrow = whole.blocks[0].model_copy(update={"mlp": _multiple(keep * shape.mlp, shape.mlp)})
    return Recipe(embed=whole.embed, blocks=(narrow,) * shape.depth)


def _merging(widths: Recipe, schedule: Callable[[float], MergeMethod]) -> Callable[[float], Recipe]:
    return lambda strength: widths.merging(schedule(strength))


def _multiple(value: float, most: int, multiple: int = _MULTIPLE) -> int:
    return min(most, max(multiple, int(value / multiple + 0.5) * multiple))


def _at_cost(build: Callable[[float], Recipe], cost: Cost, target: float) -> Recipe | None:
    """The recipe of least strength that costs at most `target`; None when full strength costs more."""
    return match_cost(build, cost, target).below


def _filled(recipe: Recipe, shape: ModelShape, cost: Cost, target: float) -> Recipe:
    """Spend what the rounding of widths left of the target on MLP channels, the same in every block."""
    block = recipe.blocks[0]
    for mlp in range(block.mlp + _MULTIPLE, shape.mlp + 1, _MULTIPLE):
        wider = recipe.model_copy(update={"blocks": (block.model_copy(update={"mlp": mlp}),) * shape.depth})
        if cost(wider) > target:
            break
        recipe = wider
    return recipe
