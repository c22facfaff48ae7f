"""What the first images of a trial tell about all of them, learned from the trials that were measured whole."""

import moocore
import numpy as np

from raycomp.evaluate.miou import Accuracy
from raycomp.results.row import Row, cost
from raycomp.search.pareto import front

_LEAST = 10  # whole trials to learn from
_DOUBT = 2.0  # standard deviations that a recipe may still gain


class FirstImages:
    """How much the figures of whole trials differ from those of their first images."""

    def __init__(self) -> None:
        self._gains: list[tuple[float, float]] = []
        self._front: list[Row] = []

    def learn(self, row: Row) -> None:
        """Take a trial of the search into account."""
        if row["status"] != "complete" or row.get("first_clean_miou") is None:
            return
        gain = row["clean_miou"] - row["first_clean_miou"], row["corrupted_miou"] - row["first_corrupted_miou"]
        self._gains.append(gain)
        self._front = front([*self._front, row])

    def bars(self, budget: float) -> tuple[Accuracy, ...]:
        """For a recipe of this cost, figures of the first images; below both of one it cannot reach the front.

        Members of the front that cost no more set them: their accuracy, less what whole trials gain on average over
        their first images, less what doubt there is about that. None until enough is known.
        """
        if len(self._gains) < _LEAST:
            return ()
        slack = np.mean(self._gains, axis=0) + _DOUBT * np.std(self._gains, axis=0, ddof=1)
        cheaper = [row for row in self._front if cost(row) <= budget]
        if not cheaper:
            return ()
        reached = np.array([(row["clean_miou"], row["corrupted_miou"]) for row in cheaper])
        return tuple(Accuracy(*bar) for bar in (reached[moocore.is_nondominated(-reached)] - slack).tolist())

    def expected(self, row: Row) -> Accuracy:
        """Figures of a stopped row on all images, as far as can be told."""
        gains = np.mean(self._gains or [(0.0, 0.0)], axis=0)
        return Accuracy(row["first_clean_miou"] + float(gains[0]), row["first_corrupted_miou"] + float(gains[1]))
