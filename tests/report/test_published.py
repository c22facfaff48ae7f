# SPDX-License-Identifier: Apache-2.0
"""Whether figures may be held against published ones."""

from pathlib import Path

import pytest

from raycomp.config import load
from raycomp.report.published import PROTOCOLS, comparability

SPACES = Path(__file__).resolve().parents[2] / "search_spaces"
ALL = {name: {"clean": protocol.images, "corrupted": protocol.images} for name, protocol in PROTOCOLS.items()}


@pytest.mark.parametrize(
    ("dataset", "section", "change", "said"),
    [
        ("ade20k", "data", {}, "Images and protocol match those of published figures."),
        ("cityscapes", "data", {}, "Images and protocol match those of published figures."),
        ("ade20k", "data", {"short_side": 256}, "the short side of images is 256, not 512"),
        ("ade20k", "data", {"short_side": None, "long_side": None}, "is not the same for all images, not 512"),
        ("cityscapes", "data", {"window": (64, 64), "stride": 64}, "windows are 64x64, not 768x768; windows are"),
        ("ade20k", "data", {"stride": 100}, "windows are 100 pixels apart, not 512"),
        ("ade20k", "data", {"eval_split": "training"}, "the split is training, not val"),
        ("ade20k", "evaluation", {"at": "resized"}, "labels are resized (evaluation.at)"),
        ("cityscapes", "evaluation", {"full": {"clean": 500, "corrupted": 6}}, "of 6 images per variant, not 500"),
        ("ade20k", "evaluation", {"full": {"clean": 300, "corrupted": 25}},
         "clean mIoU is of 300 images, not 2000; corrupted mIoU is of 25 images per variant, not 2000"),
        ("ade20k", "evaluation", {"full": {**ALL["ade20k"], "severities": [1, 3]}}, "does not cover all severities"),
    ],
)  # fmt: skip
def test_what_differs_from_the_published_protocol_is_said(dataset, section, change, said):
    config = load(SPACES / f"{dataset}_deit_base.yaml").changed("evaluation", full=ALL[dataset])
    changed = config.model_copy(
        update={section: type(getattr(config, section)).model_validate(getattr(config, section).model_dump() | change)}
    )
    assert said in comparability(changed)


def test_figures_of_the_search_stage_are_not_published_ones():
    config = load(SPACES / "ade20k_deit_base.yaml").changed("evaluation", full=ALL["ade20k"])
    assert comparability(config, "search").endswith("the figures are of the search stage.")


def test_drawn_streets_have_no_published_figures():
    config = load(SPACES / "streetscenes_vit_micro.yaml")
    assert comparability(config).endswith("the paper has no figures for streetscenes.")
