# SPDX-License-Identifier: Apache-2.0
"""Models small enough to build in milliseconds, and where the real data lies."""

import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from raycomp.compress import saliency as saliencies
from raycomp.compress.saliency import Saliency
from raycomp.context.sweep_context import SweepContext
from raycomp.models.segmenter import Segmenter, init_weights
from raycomp.recipe import dense
from raycomp.settings.section import Criterion
from raycomp.shape import ModelShape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARED = Path(__file__).resolve().parents[2] / "shared"
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background; children would ignore Ctrl-C, too
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = ModelShape(width=32, heads=4, depth=3, patch=8, image=(48, 64), classes=5, prefix=2, decoder_depth=1)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases of a test beyond the first `fast_cases` as slow, and run whole jobs first."""
    cases: Counter[str] = Counter()
    for item in items:
        if (mark := item.get_closest_marker("fast_cases")) is not None:
            test = item.nodeid.partition("[")[0]
            cases[test] += 1
            if cases[test] > mark.args[0]:
                item.add_marker(pytest.mark.slow)
    whole_jobs = ("jobs", "cluster", "faults")  # minutes each: started last, one of them would run alone at the end
    items.sort(key=lambda item: item.path.parent.name not in whole_jobs)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def shape() -> ModelShape:
    return TINY


def seeded_model(shape: ModelShape, seed: int = 0) -> Segmenter:
    """A dense model in which no parameter is zero, so that every one of them can be missed."""
    model = Segmenter(shape, dense(shape))
    generator = torch.Generator().manual_seed(seed)
    init_weights(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def seeded_images(shape: ModelShape, count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, *shape.image, generator=torch.Generator().manual_seed(seed))


def seeded_saliency(model: Segmenter, criterion: Criterion = "taylor") -> Saliency:
    shape = model.shape
    labels = torch.randint(0, shape.classes, (2, *shape.image), generator=torch.Generator().manual_seed(1))
    return saliencies.compute(model, [(seeded_images(shape, seed=1), labels)], criterion)


@pytest.fixture(scope="session")
def model() -> Segmenter:
    return seeded_model(TINY)


@pytest.fixture(scope="session")
def saliency(model: Segmenter) -> Saliency:
    return seeded_saliency(model)


@pytest.fixture(scope="session")
def context() -> SweepContext:
    """See `tests.helpers.contexts`."""
    from tests.helpers.contexts import tiny_context

    return tiny_context()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a module's own, to run jobs in; see `tests.helpers.jobs`."""
    from tests.helpers.jobs import make_place

    return make_place(tmp_path_factory.mktemp("sweep"))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list["Figure"]:
    """Every figure that is saved; see `tests.helpers.figures`."""
    from matplotlib.figure import Figure

    saved: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *arguments: Any, **options: Any) -> None:
        saved.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def shared(path: str) -> Path:
    """Real data or weights beside the checkout; the test is skipped where they are missing."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"needs ../shared/{path}, which is not here")
    return found
