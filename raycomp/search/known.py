"""Recipes people would try by hand, each matched to a target cost: the start of a sweep and its baselines."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from raycomp.flops import gflops
from raycomp.recipe import BlockWidths, Recipe, ToMe, dense, from_counts
from raycomp.results.query import BASELINES
from raycomp.search.matched import bisect
from raycomp.shape import ModelShape, Size

Cost = Callable[[Recipe], float]

UNIFORM_TOME, UNIFORM_PRUNING, UNIFORM_BOTH = BASELINES
_BEST_FIRST = (UNIFORM_BOTH, UNIFORM_PRUNING, UNIFORM_TOME, "MLP 75% + early ToMe", "early ToMe")
"""Kinds by the accuracy that street scenes keep at half of the dense GFLOPs and below, the baselines before others."""
_MULTIPLE = 8  # widths that hardware likes
_MOST_PRUNED = 0.9


@dataclass(frozen=True, slots=True)
class Known:
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
) -> Iterator[Known]:
    """Known recipes at each share of the dense cost that they can reach, most expensive first.

    Args:
        cost: of a recipe; by default GFLOPs.
        least: the narrowest widths allowed.
    """
    cost = cost or (lambda recipe: gflops(shape, recipe, image))
    whole, narrower = dense(shape), _with_mlp(shape, 0.75)
    for share in sorted(shares, reverse=True):
        target = share * cost(whole)
        half_way = _matched(lambda s: pruned(shape, s, least), cost, cost(whole) * share**0.5)
        builders: dict[str, Callable[[float], Recipe]] = {
            UNIFORM_TOME: lambda s: uniform_tome(whole, shape, image, s),
            "early ToMe": lambda s: early_tome(whole, shape, image, s),
            UNIFORM_PRUNING: lambda s: pruned(shape, s, least),
            "MLP 75% + early ToMe": lambda s: early_tome(narrower, shape, image, s),
        }
        if half_way is not None:
            builders[UNIFORM_BOTH] = partial(uniform_tome, half_way, shape, image)
        for kind, build in builders.items():
            recipe = _matched(build, cost, target)
            if recipe is not None:
                filled = _filled(recipe, shape, cost, target) if kind == UNIFORM_PRUNING else recipe
                yield Known(kind, share, filled)


def best_first(found: Iterable[Known]) -> list[Known]:
    """Order known recipes by priority when trials are few.

    The best kind comes first; of each, the dearest and the cheapest before those between, so that it spans the costs.
    """
    there = list(found)
    by_kind = [[one for one in there if one.kind == kind] for kind in _BEST_FIRST]
    return [one for own in by_kind for one in (*own[:1], *own[1:][-1:], *own[1:-1])]


def uniform_tome(base: Recipe, shape: ModelShape, image: Size, strength: float) -> Recipe:
    """The same number of merges in every block (the paper's schedule); strength 0 to 1 is r = 0 to N/2."""
    rows, columns = shape.grid(image)
    r = strength * rows * columns / 2
    counts = [round((i + 1) * r) - round(i * r) for i in range(shape.depth)]  # fractional r, spread evenly
    return _merging(base, shape, image, counts)


def early_tome(base: Recipe, shape: ModelShape, image: Size, strength: float) -> Recipe:
    """Merges that fall off geometrically with depth; past strength 0.5 the fall becomes less steep."""
    rows, columns = shape.grid(image)
    first = min(1.0, 2 * strength) * rows * columns / 2
    decay = 0.4 + max(0.0, 2 * strength - 1) * 0.5
    return _merging(base, shape, image, [round(first * decay**i) for i in range(shape.depth)])


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


def _merging(base: Recipe, shape: ModelShape, image: Size, counts: list[int]) -> Recipe:
    return Recipe(embed=base.embed, blocks=base.blocks, merge=ToMe(ratios=from_counts(shape, counts, image)))


def _multiple(value: float, most: int, multiple: int = _MULTIPLE) -> int:
    return min(most, max(multiple, int(value / multiple + 0.5) * multiple))


def _matched(build: Callable[[float], Recipe], cost: Cost, target: float) -> Recipe | None:
    """The recipe of least strength that costs at most `target`; None when full strength costs more."""
    return bisect(build, cost, target).below


def _filled(recipe: Recipe, shape: ModelShape, cost: Cost, target: float) -> Recipe:
    """Spend what the rounding of widths left of the target on MLP channels, the same in every block."""
    block = recipe.blocks[0]
    for mlp in range(block.mlp + _MULTIPLE, shape.mlp + 1, _MULTIPLE):
        wider = recipe.model_copy(update={"blocks": (block.model_copy(update={"mlp": mlp}),) * shape.depth})
        if cost(wider) > target:
            break
        recipe = wider
    return recipe
