# SPDX-License-Identifier: Apache-2.0
"""A place to break sweeps in, and what undisturbed ones find there."""

from pathlib import Path

import pytest
import yaml

from tests.helpers.jobs import make_place
from tests.helpers.sweeps import Outcomes, finish, outcomes, start


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """Short sweeps: `space.yaml`, and `random.yaml`, whose proposals do not depend on what was measured."""
    folder = make_place(tmp_path_factory.mktemp("faults"))
    space = yaml.safe_load((folder / "space.yaml").read_text())
    space["search"] |= {"trials": 9, "baselines": ["60%"]}
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    space["search"] |= {"sampler": "random"}
    (folder / "random.yaml").write_text(yaml.safe_dump(space))
    return folder


@pytest.fixture(scope="session")
def undisturbed(place) -> Outcomes:
    finish(start(place, "undisturbed"), place, "undisturbed")
    return outcomes(place, "undisturbed")


@pytest.fixture(scope="session")
def undisturbed_random(place) -> Outcomes:
    finish(start(place, "undisturbed-random", "--space", "random.yaml"), place, "undisturbed-random")
    return outcomes(place, "undisturbed-random")
