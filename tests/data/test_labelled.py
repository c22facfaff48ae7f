# SPDX-License-Identifier: Apache-2.0
"""Stages and classes that an evaluation set has no labels for."""

import re
from dataclasses import replace

import numpy as np
import pytest

from raycomp.data.evalset import CLEAN
from raycomp.data.labelled import absent_classes, check_stages
from raycomp.data.samples import IGNORE
from raycomp.errors import UserError
from raycomp.settings.evaluation import EvaluationConfig
from tests.helpers.contexts import unlabelled

FULL = {"clean": 4, "corrupted": 1}  # of the set in tests.helpers.contexts: variant v shows image v % 4


@pytest.mark.parametrize(
    ("sources", "stages", "words"),
    [
        ((0, 1, 2, 3), {"search": {"clean": 1, "corrupted": 1}}, r"evaluation\.full\.clean: none of its 4 images"),
        ((0, 1), {"search": {"clean": 2, "corrupted": 1}}, r"evaluation\.search\.clean: none of its 2 images has"),
        (
            (0,),
            {"search": {"clean": 2, "corrupted": 1}, "early_stopping": {"clean": 1, "corrupted": 1}},
            r"evaluation\.early_stopping\.clean: none of its 1 images .*; 3 of the 4 images of the set do",
        ),
        ((1, 2, 3), {"search": {"clean": 2, "corrupted": 1}}, None),
        ((), {"search": {"clean": 2, "corrupted": 1}}, None),
    ],
)
def test_stages_without_labels_are_refused(context, sources, stages, words):
    config = EvaluationConfig.model_validate({"full": FULL, **stages})
    if words is None:
        check_stages(unlabelled(context, *sources), config)
        return
    with pytest.raises(UserError, match=words):
        check_stages(unlabelled(context, *sources), config)


def test_corrupted_images_count_by_themselves(context):
    """With five images and one severity, every type shows the same image."""
    data = unlabelled(context, 2)
    data = replace(data, label_of=np.where(data.variants == CLEAN, data.label_of, 2))
    stage = {"clean": 4, "corrupted": 1}
    with pytest.raises(UserError, match=r"evaluation\.full\.corrupted: none of its 1 images has a labelled pixel"):
        check_stages(data, EvaluationConfig.model_validate({"full": stage, "search": stage}))


@pytest.mark.parametrize(
    ("values", "classes", "words"),
    [
        (
            [[0, 255], [255, 0]],
            ["back", "barn"],
            r"eval_split val: none of the 2 labels contains class 'barn' \(1\)\. .* 255 means",
        ),
        ([[0, 1], [255, 0]], ["back", "barn"], "^$"),
        ([[3, 3]], list("abcdefgh"), r"'a' \(0\), 'b' \(1\), 'c' \(2\), 'e' \(4\), 'f' \(5\) and 2 more"),
    ],
)
def test_classes_that_no_label_has_are_named(values, classes, words):
    with np.errstate(all="raise"):
        warning = absent_classes((np.array([v], np.uint8) for v in values), classes, "val")
    assert re.search(words, warning)


def test_a_split_without_any_label_is_refused():
    with pytest.raises(UserError, match=r"data\.eval_split test: no pixel is labelled in any of the 2 images"):
        absent_classes([np.full((2, 3), IGNORE, np.uint8)] * 2, ["a", "b"], "test")
