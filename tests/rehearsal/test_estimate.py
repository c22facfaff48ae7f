# SPDX-License-Identifier: Apache-2.0
"""Hours of the whole path, against sums by hand."""

from pathlib import Path

import pytest

from raycomp import config as configs
from raycomp.rehearsal.estimate import Rates, stages

SPACE = Path(__file__).parents[2] / "search_spaces" / "ade20k_deit_base.yaml"


def test_hours_are_steps_and_windows_times_their_rates():
    rates = Rates(train=0.5, elastic=2.0, policy=0.25, refine=1.0, window=0.01, windows=2)
    found = {stage.name: stage for stage in stages(configs.load(SPACE), rates)}
    images = 200 * (250 + 4 * 80) + 16 * (2000 + 25 * 80)
    expected = {
        "train": 161_680 * 0.5,
        "policy": 20_000 * 0.25,
        "elastic": 80_840 * 2.0,
        "search": images * 2 * 0.01,
        "refine": 161_680 * 1.0,
    }
    assert {name: stage.hours for name, stage in found.items()} == pytest.approx(
        {name: seconds / 3600 for name, seconds in expected.items()}
    )
    assert found["search"].amount == "200 trials, 16 full evaluations: 178,000 images of 2 windows"


def test_what_was_not_seen_is_unknown():
    rates = Rates(train=0.5, elastic=None, policy=None, refine=None, window=None, windows=None)
    assert [(stage.name, stage.hours is None) for stage in stages(configs.load(SPACE), rates)] == [
        ("train", False), ("elastic", True), ("search", True), ("refine", True),
    ]  # fmt: skip
