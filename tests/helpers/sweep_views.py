# SPDX-License-Identifier: Apache-2.0
"""Sweeps as reports read them, with all that a trial measures."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from raycomp.config import SweepConfig
from raycomp.data.corruptions import VARIANTS
from raycomp.report.sweep_view import SweepView
from raycomp.results.row import Row
from raycomp.results.store import Store
from raycomp.search.proposal import Proposal
from raycomp.search.proposer import Proposer
from tests.conftest import TINY
from tests.helpers.search import SEARCH, SPACE, drive
from tests.helpers.trials import fake_row

CLASSES = ["sky", "pole", "road", "</script><b>sign"]


def measured(proposal: Proposal, **changes: Any) -> Row:
    """A whole row, with what a trial measures beside accuracy."""
    row, rng = fake_row(TINY, proposal), np.random.default_rng(proposal.number)
    whole: dict[str, Any] = {
        "classes": CLASSES,
        "class_iou": [row.clean_miou, row.clean_miou / 2, float("nan"), 0.1 * float(rng.random())],
        "corrupted_by_variant": [row.corrupted_miou] * len(VARIANTS),
        "gflops_blocks": [row.gflops / 4] * 3,
        "tokens": [17, 12, 9],
        "params": 1000 + proposal.number,
        "effective_rank": 0.5,
        "effective_rank_std": 0.01,
        "latency_ms": 3.0,
        "throughput": 100.0,
        "batch": 4,
        "checkpoint": "a",
        "evalset": "b",
        "seconds": 1.0,
    }
    return replace(row, **whole | changes)


def sweep_view(name: str = "tiny", seed: int = 0, **changes: Any) -> SweepView:
    config = SweepConfig.model_validate(
        {
            "name": name,
            "model": {"checkpoint": "none"},
            "data": {"dataset": "streetscenes"},
            "search": SEARCH.model_dump(),
        }
    )
    return SweepView(name, config, [measured(p, **changes) for p in proposed(seed)])


def stored(folder: Path, *sweeps: SweepView) -> str:
    """A results folder that holds these sweeps."""
    for sweep in sweeps:
        store = Store(folder / sweep.name)
        store.open(sweep.config)
        for row in sweep.rows:
            store.write(replace(row, sweep=sweep.name))
        store.lock.drop()
    return str(folder)


@cache
def proposed(seed: int) -> list[Proposal]:
    return drive(Proposer(SPACE, SEARCH.model_copy(update={"seed": seed, "sampler": "random"}), []))
