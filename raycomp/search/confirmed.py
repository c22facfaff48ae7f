"""Which recipes of a search are measured on the full set: those that its front is told by in the end."""

from collections.abc import Iterable

from raycomp.results.row import Row, cost
from raycomp.results.store import completed
from raycomp.search.known import is_baseline
from raycomp.search.pareto import most_useful

CONFIRMED = 12
"""Members of the front that are measured on the full set."""


def confirmed(rows: Iterable[Row]) -> list[Row]:
    """The dense model's row, the uniform baselines', and those of the front that add most, each once."""
    search = completed(rows, "search")
    reference = [row for row in search if row["origin"] == "reference"]
    trials = [row for row in search if row["origin"] != "reference"]
    baselines = [row for row in trials if is_baseline(row["label"])]
    most = cost(reference[0]) if reference else max(map(cost, trials), default=1.0)
    chosen = most_useful(trials, CONFIRMED, most)
    return list({row["recipe_id"]: row for row in (*reference, *baselines, *chosen)}.values())
