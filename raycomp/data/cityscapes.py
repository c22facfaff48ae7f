"""Cityscapes: `leftImg8bit/val/CITY/*_leftImg8bit.png`, `gtFine/val/CITY/*_gtFine_label(Train)Ids.png`.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016. Files of
19 train ids are used unless more images have files of the original label ids, which are mapped to them.
"""

from pathlib import Path

from raycomp.data.folders import FolderSamples, by_name, identity, lookup_table, matched, split_folder
from raycomp.data.images import listed
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
        files = _by_name(images, "_leftImg8bit")
        train_ids, label_ids = _by_name(labels, "_gtFine_labelTrainIds"), _by_name(labels, "_gtFine_labelIds")
        others = dict.fromkeys(range(_LAST_LABEL_ID + 1), IGNORE) | {IGNORE: IGNORE}
        if len(files.keys() & train_ids.keys()) >= len(files.keys() & label_ids.keys()):
            label_of, lookup = train_ids, identity(len(CLASSES))
        else:
            label_of, lookup = label_ids, lookup_table(others | {v: i for i, v in enumerate(_LABEL_IDS)})
        super().__init__(matched(files, label_of, images), CLASSES, lookup)


def _by_name(folder: Path, ending: str) -> dict[str, Path]:
    """Files of all cities with this ending, by their names without it."""
    found = listed(folder, [".png"], "*/*")
    return by_name([path for path in found if path.stem.endswith(ending)], ending)
