"""CamVid with 11 classes, in the SegNet layout: `train/` and `trainannot/`, `val/`, `test/`.

Brostow et al., "Semantic object classes in video", Pattern Recognition Letters 2009.
"""

from pathlib import Path

from raycomp.data.folders import FolderSamples, identity, matched, split_folder

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
        files = sorted(p for p in images.iterdir() if p.suffix in (".png", ".jpg"))
        label_of = {p.stem: p for p in labels.glob("*.png")}
        super().__init__(matched(files, label_of, "", images), CLASSES, identity(len(CLASSES), _UNLABELLED))
