"""raycomp finds Pareto-optimal prune-then-merge recipes for ViT segmentation models.

Reading order: recipe.py (what to build), flops.py (what it costs), compress/ (how it is built),
evaluate/measure.py (what is measured), search/proposer.py (what is tried next), search/sweep.py.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raycomp.models.segmenter import Segmenter


def load(path: str) -> "Segmenter":
    """Rebuild an exported model (`raycomp export`): pruned, merging, ready to be called on normalised images.

    Raises:
        UserError: for a file that is not a model of ours.
    """
    from raycomp.deploy import model  # torch takes seconds to import

    return model.load(path)
