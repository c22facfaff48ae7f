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

_NARROWER, _NARROWER_MLP = "MLP 75% + ", 0.75
INT8 = "dense in INT8"
"""Kind of the dense widths in INT8."""
_BEST_FIRST = (INT8, UNIFORM_BOTH, UNIFORM_PRUNING, UNIFORM, _NARROWER, "")
"""Prefixes of kinds, ordered by the mIoU they keep on street scenes at half the dense GFLOPs or less. Uniform baselines
come before other schedules, and the effect of INT8 alone, which one recipe shows, before all."""
_MULTIPLE = 8  # widths are rounded to this multiple, which suits the hardware
_MAX_PRUNED = 0.9  # share of a width


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
    sparing: Callable[[Recipe], Recipe] = lambda recipe: recipe,
) -> Iterator[Baseline]:
    """Yield the baselines that can reach each share of the dense cost, largest share first.

    Args:
        cost: Cost of a recipe; GFLOPs by default.
        narrowest: Recipe with the smallest widths allowed.
        merging: The merge method, with any settings; by default the one of a space that names none.
        sparing: Undoes what must not be touched, such as changes to fixed blocks.
    """
    merging = merging or METHODS[SpaceConfig().merge].standard(shape, PolicyConfig().kind)
    schedules = merging.schedules(shape, image)
    last = list(schedules)[-1]
    cost = cost or (lambda recipe: gflops(shape, recipe, image))
    full = dense(shape)
    dense_cost = cost(full)
    narrow = full.blocks[0].model_copy(update={"mlp": _rounded(_NARROWER_MLP * shape.mlp, shape.mlp)})
    narrower = Recipe(embed=full.embed, blocks=(narrow,) * shape.depth)
    builders = {f"{name} {merging.title}": _merging(full, merge) for name, merge in schedules.items()}
    builders[UNIFORM_PRUNING] = lambda strength: pruned(shape, strength, narrowest)
    builders[f"{_NARROWER}{last} {merging.title}"] = _merging(narrower, schedules[last])
    for share in sorted(shares, reverse=True):
        half_way = match_cost(_composed(sparing, builders[UNIFORM_PRUNING]), cost, dense_cost * share**0.5).below
        both = {} if half_way is None else {UNIFORM_BOTH + merging.title: _merging(half_way, schedules["uniform"])}
        for kind, build in (builders | both).items():
            recipe = match_cost(_composed(sparing, build), cost, share * dense_cost).below
            if recipe is not None and kind == UNIFORM_PRUNING:
                recipe = _filled(recipe, shape, cost, share * dense_cost)
            if recipe is not None:
                yield Baseline(kind, share, recipe)


def by_priority(baselines: Iterable[Baseline]) -> list[Baseline]:
    """Order baselines by priority, for sweeps with few trials.

    The best kind comes first. Within a kind, the most and least expensive precede the others, to span the costs.
    """
    baselines = list(baselines)

    def rank(kind: str) -> int:
        return next(rank for rank, start in enumerate(_BEST_FIRST) if kind.startswith(start))

    kinds = sorted(dict.fromkeys(baseline.kind for baseline in baselines), key=rank)
    groups = [[baseline for baseline in baselines if baseline.kind == kind] for kind in kinds]
    return [baseline for group in groups for baseline in (*group[:1], *group[1:][-1:], *group[1:-1])]


def pruned(shape: ModelShape, strength: float, narrowest: Recipe | None = None) -> Recipe:
    """Cut every width by the same share; keep all heads, as `qk` and `v` cut the same units in finer steps.

    With `narrowest`, move every width and the number of heads the same share of the way to its widths.
    """
    limits = {} if narrowest is None else _widths(narrowest)
    cut = {}
    for name, width in _widths(dense(shape)).items():
        limit = limits.get(name, width if name == "heads" else (1 - _MAX_PRUNED) * width)
        cut[name] = _rounded(width - strength * (width - limit), width, 1 if name == "heads" else _MULTIPLE)
    return Recipe(embed=cut.pop("embed"), blocks=(BlockWidths(**cut),) * shape.depth)


def _widths(recipe: Recipe) -> dict[str, int]:
    """Return every width by name; a block width is the minimum over the blocks."""
    names = ("heads", "qk", "v", "mlp")
    return {"embed": recipe.embed} | {name: min(getattr(block, name) for block in recipe.blocks) for name in names}


def _merging(widths: Recipe, schedule: Callable[[float], MergeMethod]) -> Callable[[float], Recipe]:
    return lambda strength: widths.merging(schedule(strength))


def _composed(sparing: Callable[[Recipe], Recipe], build: Callable[[float], Recipe]) -> Callable[[float], Recipe]:
    return lambda strength: sparing(build(strength))


def _rounded(width: float, full: int, multiple: int = _MULTIPLE) -> int:
    return min(full, max(multiple, int(width / multiple + 0.5) * multiple))


def _filled(recipe: Recipe, shape: ModelShape, cost: Cost, target: float) -> Recipe:
    """Spend the budget left by rounding on MLP channels, equally in every block."""
    for mlp in range(min(block.mlp for block in recipe.blocks) + _MULTIPLE, shape.mlp + 1, _MULTIPLE):
        blocks = tuple(block.model_copy(update={"mlp": max(mlp, block.mlp)}) for block in recipe.blocks)
        wider = recipe.model_copy(update={"blocks": blocks})
        if cost(wider) > target:
            break
        recipe = wider
    return recipe
