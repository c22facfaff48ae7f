# SPDX-License-Identifier: Apache-2.0
"""Check the labels of an evaluation set: which stages can be measured, and which classes occur."""

from collections.abc import Iterable, Sequence

import numpy as np

from raycomp.data.evalset import CLEAN, EvalSet
from raycomp.data.folders import FolderSamples
from raycomp.data.samples import IGNORE, Samples, nothing_labelled
from raycomp.errors import UserError
from raycomp.settings.evaluation import EvaluationConfig

_NAMED = 5  # maximum number of absent classes in a warning


def check_stages(data: EvalSet, evaluation: EvaluationConfig) -> None:
    """Check that every stage has labelled pixels.

    Raises:
        UserError: if no clean image, or no corrupted image, of a stage has a labelled pixel.
    """
    labelled = np.array([bool((label != IGNORE).any()) for label in data.labels.views()])
    for name in ("full", "search", "early_stopping"):
        stage = getattr(evaluation, name)
        if stage is None:
            continue
        chosen = data.chosen(stage)
        is_clean = data.variants[chosen] == CLEAN
        for field, part in (("clean", chosen[is_clean]), ("corrupted", chosen[~is_clean])):
            sources = np.unique(data.label_of[part])
            if not labelled[sources].any():
                raise UserError(
                    f"evaluation.{name}.{field}: none of its {len(sources)} images has a labelled pixel; "
                    f"{labelled.sum()} of the {len(labelled)} images of the set do"
                )


def absent_in(samples: Samples, count: int, split: str) -> str:
    """Read the first labels of a split and return their `absent_classes`; empty for generated data sets.

    Raises:
        UserError: as `absent_classes`, or if a label cannot be read.
    """
    if not isinstance(samples, FolderSamples):
        return ""
    return absent_classes((samples.label(index) for index in range(count)), samples.classes, split)


def absent_classes(labels: Iterable[np.ndarray], classes: Sequence[str], split: str) -> str:
    """Return a warning that names the classes absent from all labels; empty if there are none.

    Raises:
        UserError: if no pixel is labelled.
    """
    count, present = 0, np.zeros(IGNORE + 1, bool)
    for label in labels:
        present |= np.bincount(label.reshape(-1), minlength=IGNORE + 1) > 0
        count += 1
    absent = np.flatnonzero(~present[: len(classes)]).tolist()
    if len(absent) == len(classes):
        raise nothing_labelled(split, count)
    if not absent:
        return ""
    named = ", ".join(f"{classes[index]!r} ({index})" for index in absent[:_NAMED])
    more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
    return (
        f"data.eval_split {split}: none of the {count} labels contains class {named}{more}. A model that predicts it "
        "scores IoU 0 there, which lowers mIoU. Label value 255 means unlabelled."
    )
