# SPDX-License-Identifier: Apache-2.0
"""How long is searched, and what all surfaces start from: a tiny exported model and a folder with a sweep.

`make test` runs a few examples of each test, the same ones every time; `make fuzz` runs new ones for minutes.
"""

import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from PIL import Image

from raycomp.data import evalset
from raycomp.deploy import model as models
from raycomp.models import checkpoints
from raycomp.models.policy import Policy
from raycomp.recipe import dense
from raycomp.results.store import Store
from raycomp.settings.model_and_data import DataConfig
from tests.conftest import TINY, seeded_model
from tests.helpers.answers import Given
from tests.helpers.sweep_views import sweep_view

MINUTES = float(os.environ.get("RAYCOMP_FUZZ_MINUTES") or 0)
"""For each file of tests; 0: a few fixed examples."""
_ROOT = Path(__file__).resolve().parents[2]
_MEMORY = 8 * 2**30  # bytes beside those in use: what asks for more shall fail here, and not stop the machine

# each example has a limit of its own
_common: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
}
settings.register_profile(
    "short", **_common, max_examples=40, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate]
)
settings.register_profile(
    "long", **_common, max_examples=300, database=DirectoryBasedExampleDatabase(_ROOT / ".hypothesis" / "fuzz")
)
FUZZ = settings.get_profile("long" if MINUTES else "short")
"""Decorates a test beside `given`; `settings.load_profile` would change those of other folders, too."""
FUZZ_LITTLE = settings(FUZZ, max_examples=FUZZ.max_examples // 8)
"""The same where an example takes longer."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """With `make fuzz`, repeat a test until its part of its file's minutes is over."""
    if not MINUTES or not hasattr(pyfuncitem.obj, "hypothesis"):
        return None
    beside = [i for i in pyfuncitem.session.items if i.path == pyfuncitem.path and hasattr(i.obj, "hypothesis")]
    end = time.monotonic() + 60 * MINUTES / len(beside)
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    while time.monotonic() < end:
        pyfuncitem.obj(**arguments)
    return True


@pytest.fixture(scope="module", autouse=True)  # a session has tests of other folders, too
def bounded_memory():
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + _MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module", autouse=True)
def one_process():
    """Corruptions in this process: starting others would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evalset, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
        yield


@pytest.fixture(scope="session")
def given_files(tmp_path_factory) -> Given:
    """Files that are right, which examples start from."""
    folder = tmp_path_factory.mktemp("given")
    model = seeded_model(TINY)
    data = DataConfig(dataset="streetscenes", short_side=48, stride=32)
    models.save(model, models.card_of(model, data, tuple("abcde")), folder / "export.safetensors")
    torch.manual_seed(0)
    checkpoints.save_policy(Policy("small", TINY.patch), folder / "policy.safetensors", {})
    Image.fromarray(np.zeros((50, 66, 3), np.uint8)).save(folder / "x.png")
    (folder / "recipe.json").write_text(dense(TINY).canonical_json())
    sweep = sweep_view()
    store = Store(folder / "results" / sweep.name)
    store.open(sweep.config)
    for row in sweep.rows:
        store.write(replace(row, sweep=sweep.name))
    store.finish()
    store.lock.drop()
    store.compact()
    best = next(row.recipe_id for row in sweep.rows if row.stage == "full")
    return Given(folder, best)
