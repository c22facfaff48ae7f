"""Which recipe of a sweep to take: the most accurate one within limits, or the cheapest that is accurate enough."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from raycomp.errors import UserError, nearest
from raycomp.report.compare import dense_row, final_stage
from raycomp.results.row import Row, class_names, cost, cost_share, timed
from raycomp.results.store import completed
from raycomp.search.pareto import front


@dataclass(frozen=True)
class Limits:
    """What a recipe must keep to; None for no limit. Drops are points of mIoU lost against dense, IoU is in [0, 1]."""

    gflops: float | None = None
    share: float | None = None
    """Of what the sweep limits: dense GFLOPs, or the dense model's time."""
    drop: float | None = None
    corrupted_drop: float | None = None
    class_iou: dict[str, float] = field(default_factory=dict)

    @property
    def of_cost(self) -> bool:
        """Whether the cost is limited, so that accuracy is what is left to choose by."""
        return self.gflops is not None or self.share is not None


def choose(rows: Sequence[Row], limits: Limits) -> list[Row]:
    """Recipes within the limits, the best first: by accuracy where cost is limited, else by cost.

    Accuracy is the mean of clean and corrupted mIoU. Rows are of the full stage, or of the search where it has
    none. Of what others dominate there is nothing, unless a class's IoU asks for it.

    Raises:
        UserError: where no recipe keeps to them, naming the limit and what comes nearest.
    """
    stage = final_stage(rows)
    left = completed(rows, stage)
    if not left:
        raise UserError("the sweep has no complete trial yet")
    whole = dense_row(rows, stage)
    tests = _tests(limits, left, whole)
    for text, least in tests:
        passed = [row for row in left if least(row) <= 0]
        if not passed:
            near = min(left, key=least)
            others = "" if text == tests[0][0] else " within the other limits"
            told = _told(near, whole, limits, class_names(rows))
            raise UserError(f"no recipe{others} has {text}; nearest: {near['recipe_id']} with {told}")
        left = passed
    found = left if limits.class_iou else front(left)
    by_cost = sorted(found, key=lambda row: (cost(row), -_accuracy(row)))
    return sorted(by_cost, key=lambda row: -_accuracy(row)) if limits.of_cost else by_cost


def _tests(limits: Limits, rows: Sequence[Row], whole: Row | None) -> list[tuple[str, Callable[[Row], float]]]:
    """Each limit in words, and by how much a row is beyond it."""
    found: list[tuple[str, Callable[[Row], float]]] = []
    if limits.gflops is not None:
        most = limits.gflops
        found.append((f"at most {most:g} GFLOPs", lambda row: row["gflops"] - most))
    if limits.share is not None:
        part = limits.share
        what = "time" if any(timed(row) for row in rows) else "GFLOPs"
        found.append((f"at most {part:.3g} of the dense {what}", lambda row: cost_share(row) - part))
    for name, drop in (("clean", limits.drop), ("corrupted", limits.corrupted_drop)):
        if drop is None:
            continue
        if whole is None:
            raise UserError(f"a limit of the {name} drop needs the dense model, which is not measured yet")
        least = whole[f"{name}_miou"] - drop / 100
        found.append((f"a {name} mIoU of {100 * least:.2f} % or more", partial(_miou_lacks, f"{name}_miou", least)))
    names = class_names(rows)
    for name, iou in limits.class_iou.items():
        if name not in names:
            raise UserError(f"class {name!r}: {nearest(name, names)}")
        found.append((f"an IoU of {name} of {iou:g} or more", partial(_class_lacks, names.index(name), iou)))
    return found


def _miou_lacks(name: str, least: float, row: Row) -> float:
    return least - float(row[name])


def _class_lacks(index: int, least: float, row: Row) -> float:
    value = float(row["class_iou"][index])
    return least - (value if value == value else 0.0)  # a class that does not occur


def _accuracy(row: Row) -> float:
    return float(row["clean_miou"] + row["corrupted_miou"]) / 2


def _told(row: Row, whole: Row | None, limits: Limits, names: Sequence[str]) -> str:
    text = f"{row['gflops']:.4g} GFLOPs ({row['gflops_share']:.1%}), {100 * row['clean_miou']:.2f} clean"
    text += f" and {100 * row['corrupted_miou']:.2f} corrupted"
    if whole is not None:
        lost = (100 * (row[name] - whole[name]) for name in ("clean_miou", "corrupted_miou"))
        text += " ({:+.2f} / {:+.2f})".format(*lost)
    return text + "".join(f", {name} {row['class_iou'][names.index(name)]:.3f}" for name in limits.class_iou)
