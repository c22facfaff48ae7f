# SPDX-License-Identifier: Apache-2.0
"""Which kind of measurement each proposal of a search is for, and at which share of the dense cost.

Probes, measured on few images, teach the model what each part of a recipe is worth. Solutions, measured on all images
of the search, are the best recipes that the model knows at each share. They alternate in rounds, so that the model also
learns from its solutions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from raycomp.config import SweepConfig
from raycomp.data.corruptions import TYPES
from raycomp.results.row import Row
from raycomp.settings.evaluation import StageConfig

_ROUNDS = 2
_MILD = 0.3
"""Share of the dense cost above which recipes differ by tenths of a point. These shares get twice the probes."""


def stage_images(stage: StageConfig) -> int:
    """Return the number of images a recipe is measured on in a stage."""
    return stage.clean + stage.corrupted * len(TYPES) * len(stage.severities)


def probe_trials(config: SweepConfig) -> float | None:
    """Return the images of a probe relative to those of a trial; None if probes would not be cheaper.

    Probes are measured on the first images, `evaluation.early_stopping`. They save nothing where the recovery of a
    recipe takes longer than its measurement.
    """
    first = config.evaluation.early_stopping
    if first is None or config.recovery.mode not in ("none", "elastic"):
        return None
    return stage_images(first) / stage_images(config.evaluation.search)


def trials_spent(config: SweepConfig, rows: Iterable[Row]) -> float:
    """Return the trials that rows count as: a probe as a part of one, the dense model and the full set as none."""
    probe = (probe_trials(config) if config.search.sampler == "additive" else None) or 1.0
    weights = {"search": 1.0, "probe": probe}
    return sum(weights.get(row.stage, 0.0) for row in rows if not row.is_dense)


@dataclass(frozen=True, slots=True)
class Turn:
    """The task of one proposal."""

    stage: str
    """`probe` or `search`."""
    share: float
    """Share of the dense cost that the recipe may cost."""
    explores: bool
    """Whether the recipe is for learning; otherwise it is the best one known."""


class Schedule:
    """The turns of a search, in order."""

    def __init__(self, shares: Sequence[float], trials: float, probe_trials: float | None) -> None:
        """Divide the trials left after the baselines.

        Args:
            shares: shares of the dense cost to search at.
            trials: trials to spend.
            probe_trials: what a probe costs, in trials; None to measure every recipe on all images.
        """
        self._shares, cost = list(shares), probe_trials or 1.0
        stage = "search" if probe_trials is None else "probe"
        rounds = _ROUNDS if trials >= 2 * _ROUNDS * len(shares) else 1
        for_learning = trials - rounds * len(shares)
        count = max(0, int(for_learning / (rounds * cost) + 1e-9))
        probed_shares = [share for share in shares for _ in range(2 if share > _MILD else 1)]
        self._turns: list[Turn] = []
        for first in range(rounds):
            probed = (probed_shares[(first * count + one) % len(probed_shares)] for one in range(count))
            self._turns += [Turn(stage, share, True) for share in probed]
            self._turns += [Turn("search", share, False) for share in self._shares]

    def turn(self, index: int) -> Turn:
        """Return the turn of a proposal, counted from 0. After the last round, solutions go on."""
        if index < len(self._turns):
            return self._turns[index]
        return Turn("search", self._shares[(index - len(self._turns)) % len(self._shares)], False)
