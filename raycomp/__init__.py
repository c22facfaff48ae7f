# SPDX-License-Identifier: Apache-2.0
"""Find Pareto-optimal prune-then-merge recipes for ViT segmentation models.

Reading order: recipe.py (what to build), flops.py (its cost), compress/ (building it),
evaluate/measure.py (measuring it), search/proposer.py (what to try next), search/sweep.py.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raycomp.models.segmenter import Segmenter
    from raycomp.notebook import Sweep as Sweep


def __getattr__(name: str) -> Any:
    if name == "Sweep":
        from raycomp.notebook import Sweep  # which needs pyarrow

        return Sweep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(path: str) -> "Segmenter":
    """Load an exported model (`raycomp export`): pruned, merging tokens, ready for normalised images.

    It computes in float32, that of an INT8 recipe, too, which is INT8 only in its ONNX file.

    Raises:
        UserError: if the file is not a raycomp model.
    """
    from raycomp.deploy import model  # torch takes seconds to import

    return model.load(path)
