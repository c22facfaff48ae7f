"""CamVid with 11 classes, in the SegNet layout: `train/` and `trainannot/`, `val/`, `test/`.

Brostow et al., "Semantic object classes in video", Pattern Recognition Letters 2009.
"""

from pathlib import Path

from raycomp.data.folders import FolderSamples, by_name, identity, matched, split_folder
from raycomp.data.images import listed

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree",
    "sign", "fence", "car", "person", "bicyclist",
)  # fmt: skip
_UNLABELLED = 11


class CamVid(FolderSamples):
    """A split of CamVid; value 11 is unlabelled."""

    def __init__(self, root: Path, split: str) -> None:
        images = split_folder(root, ["{split}"], split, "images")
        labels = split_folder(root, ["{split}annot"], split, "labels")
        pairs = matched(by_name(listed(images, [".png", ".jpg"])), by_name(listed(labels, [".png"])), images)
        super().__init__(pairs, CLASSES, identity(len(CLASSES), _UNLABELLED))
