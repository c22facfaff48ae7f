"""Cityscapes: `leftImg8bit/val/CITY/*_leftImg8bit.png`, `gtFine/val/CITY/*_gtFine_label(Train)Ids.png`.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016. Files of
19 train ids are used where there are any, else the original label ids are mapped to them.
"""

from pathlib import Path

from raycomp.data.folders import FolderSamples, identity, lookup_table, matched, split_folder
from raycomp.data.samples import IGNORE

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_LAST_LABEL_ID = 33


class Cityscapes(FolderSamples):
    """A split of Cityscapes with its 19 evaluated classes."""

    def __init__(self, root: Path, split: str) -> None:
        images = split_folder(root, ["leftImg8bit/{split}"], split, "images")
        labels = split_folder(root, ["gtFine/{split}"], split, "labels")
        train_ids = {
            p.stem.removesuffix("_gtFine_labelTrainIds"): p for p in labels.glob("*/*_gtFine_labelTrainIds.png")
        }
        label_ids = {p.stem.removesuffix("_gtFine_labelIds"): p for p in labels.glob("*/*_gtFine_labelIds.png")}
        files = sorted(images.glob("*/*_leftImg8bit.png"))
        everything = train_ids.keys() >= {p.stem.removesuffix("_leftImg8bit") for p in files} and bool(train_ids)
        others = dict.fromkeys(range(_LAST_LABEL_ID + 1), IGNORE) | {IGNORE: IGNORE}
        lookup = (
            identity(len(CLASSES)) if everything else lookup_table(others | {v: i for i, v in enumerate(_LABEL_IDS)})
        )
        pairs = matched(files, train_ids if everything else label_ids, "_leftImg8bit", images)
        super().__init__(pairs, CLASSES, lookup)
