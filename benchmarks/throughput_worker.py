# SPDX-License-Identifier: Apache-2.0
"""The worker that `throughput.py` times: it measures the search stage of recipes from standard input, one per line.

It is a separate process so that it can run the package of another working tree; it imports only what all trees have.
"""

import sys
import time
from pathlib import Path

import torch

from raycomp import config as configs
from raycomp.context.preparation import prepare_context
from raycomp.context.sweep_context import SweepContext
from raycomp.memory import keep_freed_memory
from raycomp.recipe import Recipe
from raycomp.search.proposal import Proposal
from raycomp.search.trial import run_trial

SPACE = Path(__file__).resolve().parents[1] / "search_spaces" / "streetscenes_vit_micro.yaml"


def prepared() -> SweepContext:
    """Prepare the context that all trials share."""
    torch.set_num_threads(1)
    keep_freed_memory()
    return prepare_context(configs.load(SPACE), lambda line: print(line, file=sys.stderr))


def measured(context: SweepContext, recipe: Recipe, device: torch.device) -> tuple[float, float]:
    """Return the seconds and the clean mIoU of a trial."""
    began = time.perf_counter()
    row = run_trial(context, None, Proposal(0, "search", "proposed", "", recipe), Path(), device, "")
    assert row.status == "complete", row.error
    assert row.clean_miou is not None
    return time.perf_counter() - began, row.clean_miou


def main(device: str) -> None:
    context = prepared()
    for line in sys.stdin:
        print(*measured(context, Recipe.model_validate_json(line), torch.device(device)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
