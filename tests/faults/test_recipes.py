# SPDX-License-Identifier: Apache-2.0
"""Recipes that run out of memory, hang, or take their worker along: marked failed, and the sweep goes on."""

import pytest
import yaml

from tests.helpers.sweeps import finish, outcomes, start

pytestmark = pytest.mark.faults


def test_recipes_that_cannot_be_measured_fail_alone(place, undisturbed_random):
    recipes = [recipe for stage, recipe in undisturbed_random if stage == "search"]
    memory, killed, hang = recipes[-1], recipes[-3], recipes[-5]
    space = yaml.safe_load((place / "random.yaml").read_text())
    space["search"] |= {"trial_seconds": 5.0, "max_failures": 1}
    (place / "impatient.yaml").write_text(yaml.safe_dump(space))
    faults = {memory: "memory", killed: "killed", hang: "hang"}
    output = finish(start(place, "faulty", "--space", "impatient.yaml", faults=faults), place, "faulty")
    measured = outcomes(place, "faulty")
    search = {key: value for key, value in measured.items() if key[0] == "search"}
    assert search.keys() == {key for key in undisturbed_random if key[0] == "search"}
    assert "can't allocate memory" in search.pop(("search", memory))
    assert "the trial's worker died 2 times, perhaps out of memory" in search.pop(("search", killed))
    assert "TimeoutError: not done within 5 seconds (search.trial_seconds)" in search.pop(("search", hang))
    assert search.items() <= undisturbed_random.items()
    assert "failed 3" in output
    assert any(stage == "full" for stage, _ in measured)
