"""ADE20K in the SceneParsing layout: `images/validation/*.jpg`, `annotations/validation/*.png`.

Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017. Value 0 is unlabelled, class i is
stored as i + 1.
"""

from pathlib import Path

from raycomp.data.folders import FolderSamples, by_name, lookup_table, matched, split_folder
from raycomp.data.images import listed
from raycomp.data.samples import IGNORE
from raycomp.errors import UserError

CLASS_COUNT = 150
_FOLDERS = {"train": "training", "val": "validation"}


class Ade20k(FolderSamples):
    """A split of ADE20K with its 150 classes."""

    def __init__(self, root: Path, split: str) -> None:
        folder = _FOLDERS.get(split, split)
        images = split_folder(root, ["images/{split}"], folder, "images")
        labels = split_folder(root, ["annotations/{split}"], folder, "labels")
        pairs = matched(by_name(listed(images, [".jpg"])), by_name(listed(labels, [".png"])), images)
        lookup = lookup_table({0: IGNORE} | {i + 1: i for i in range(CLASS_COUNT)})
        super().__init__(pairs, _class_names(root), lookup)


def _class_names(root: Path) -> list[str]:
    """First synonym of each class from objectInfo150.txt; numbered names where the file is missing."""
    path = root / "objectInfo150.txt"
    if not path.is_file():
        return [f"class_{i + 1}" for i in range(CLASS_COUNT)]
    lines = path.read_text().splitlines()[1:]
    names = [line.split("\t")[-1].split(",")[0].strip() for line in lines if line.strip()]
    if len(names) != CLASS_COUNT:
        raise UserError(f"{path}: lists {len(names)} classes, expected {CLASS_COUNT}")
    return names
