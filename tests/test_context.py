# SPDX-License-Identifier: Apache-2.0
"""What trials share, made from files."""

import pytest
import torch

from raycomp.context.calibration import score
from raycomp.errors import UserError
from tests.conftest import seeded_model
from tests.helpers.contexts import TWO_CLASSES, labelled_folder


def test_saliency_passes_over_images_without_labels(tmp_path):
    """They made it NaN, and what was pruned then was chance."""
    model, cpu = seeded_model(TWO_CLASSES), torch.device("cpu")
    some = score(model, labelled_folder(tmp_path / "some", (True, False)), cpu, "taylor")
    alone = score(model, labelled_folder(tmp_path / "alone", (True,)), cpu, "taylor")
    assert all(torch.equal(some[name], alone[name]) for name in alone)
    assert all(scores.isfinite().all() for scores in some.values())
    with pytest.raises(UserError, match=r"data\.train_split train: no image has a labelled pixel in its centre crop"):
        score(model, labelled_folder(tmp_path / "none", (False, False)), cpu, "taylor")
