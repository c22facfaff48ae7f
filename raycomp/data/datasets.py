# SPDX-License-Identifier: Apache-2.0
"""The data sets that a search space can name: files, classes and unlabelled values.

- CamVid with 11 classes: Brostow et al., "Semantic object classes in video", Pattern Recognition Letters 2009.
- ADE20K: Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017.
- Cityscapes: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.
- Custom: any other data set, with its classes named in the search space.
- StreetScenes: procedural, see `raycomp.data.streetscenes`.
"""

from collections.abc import Sequence
from pathlib import Path

from raycomp.data.folders import FolderSamples, by_name, identity, lookup_table, matched, split_folder
from raycomp.data.images import IMAGES, listed
from raycomp.data.samples import IGNORE, Samples
from raycomp.data.streetscenes import StreetScenes
from raycomp.errors import UserError
from raycomp.settings.model_and_data import DataConfig

CAMVID = (
    "sky", "building", "pole", "road", "pavement", "tree",
    "sign", "fence", "car", "person", "bicyclist",
)  # fmt: skip
_CAMVID_UNLABELLED = 11
_ADE20K_CLASSES = 150
CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def open_split(config: DataConfig, split: str, count: int) -> Samples:
    """Open the samples of a split; `count` is the number of scenes for streetscenes, and ignored otherwise.

    Raises:
        UserError: if a folder is missing or the split is unknown.
    """
    if config.dataset == "streetscenes":
        if count < 1:
            raise UserError("train.images is missing: it sets how many scenes streetscenes draws")
        return StreetScenes(split, count)
    if config.root is None:
        raise UserError(f"data.root is missing: {config.dataset} needs the folder of the data set")
    if config.classes is not None:
        return Custom(config.root, split, config.classes, config.ignore)
    kinds = {"camvid": CamVid, "ade20k": Ade20k, "cityscapes": Cityscapes}
    return kinds[config.dataset](config.root, split)


def _pairs(root: Path, split: str, images: str, labels: str, suffixes: Sequence[str]) -> list[tuple[Path, Path]]:
    """Pair images with PNG labels of the same name, in two folders of a split; see `split_folder`."""
    folder = split_folder(root, images, split, "images")
    named = by_name(listed(folder, suffixes))
    return matched(named, by_name(listed(split_folder(root, labels, split, "labels"), [".png"])), folder)


class CamVid(FolderSamples):
    """`train/` and `trainannot/`, `val/` and `valannot/` and so on, as in SegNet; value 11 is unlabelled."""

    def __init__(self, root: Path, split: str) -> None:
        pairs = _pairs(root, split, "{split}", "{split}annot", [".png", ".jpg"])
        super().__init__(pairs, CAMVID, identity(len(CAMVID), _CAMVID_UNLABELLED))


class Ade20k(FolderSamples):
    """`images/validation/*.jpg` and `annotations/validation/*.png`: 0 is unlabelled, class i is stored as i + 1."""

    def __init__(self, root: Path, split: str) -> None:
        folder = {"train": "training", "val": "validation"}.get(split, split)
        pairs = _pairs(root, folder, "images/{split}", "annotations/{split}", [".jpg"])
        lookup = lookup_table({0: IGNORE} | {i + 1: i for i in range(_ADE20K_CLASSES)})
        super().__init__(pairs, _class_names(root), lookup)


def _class_names(root: Path) -> list[str]:
    """Return the first synonym of each class from objectInfo150.txt; numbered names if the file is missing."""
    path = root / "objectInfo150.txt"
    if not path.is_file():
        return [f"class_{i + 1}" for i in range(_ADE20K_CLASSES)]
    lines = path.read_text().splitlines()[1:]
    names = [line.split("\t")[-1].split(",")[0].strip() for line in lines if line.strip()]
    if len(names) != _ADE20K_CLASSES:
        raise UserError(f"{path}: lists {len(names)} classes, expected {_ADE20K_CLASSES}")
    return names


class Cityscapes(FolderSamples):
    """`leftImg8bit/val/CITY/*_leftImg8bit.png` and `gtFine/val/CITY/*_gtFine_label(Train)Ids.png`.

    Files with the 19 train ids are used, unless more images have files with the original label ids, which are mapped.
    """

    def __init__(self, root: Path, split: str) -> None:
        images = split_folder(root, "leftImg8bit/{split}", split, "images")
        labels = split_folder(root, "gtFine/{split}", split, "labels")
        files = _in_cities(images, "_leftImg8bit")
        train_ids = _in_cities(labels, "_gtFine_labelTrainIds")
        label_ids = _in_cities(labels, "_gtFine_labelIds")
        if len(files.keys() & train_ids.keys()) >= len(files.keys() & label_ids.keys()):
            label_of, lookup = train_ids, identity(len(CITYSCAPES))
        else:
            others = dict.fromkeys((*range(_LABEL_IDS[-1]), IGNORE), IGNORE)
            label_of, lookup = label_ids, lookup_table(others | {v: i for i, v in enumerate(_LABEL_IDS)})
        super().__init__(matched(files, label_of, images), CITYSCAPES, lookup)


def _in_cities(folder: Path, ending: str) -> dict[str, Path]:
    """Return the files of all cities with an ending, by their names without it."""
    files = listed(folder, [".png"], "*/*")
    return by_name([path for path in files if path.stem.endswith(ending)], ending)


class Custom(FolderSamples):
    """`images/SPLIT/NAME.jpg` (or another suffix in `IMAGES`) and `labels/SPLIT/NAME.png`.

    Label values are class indices; 255 and `ignore` are unlabelled.
    """

    def __init__(self, root: Path, split: str, classes: Sequence[str], ignore: Sequence[int]) -> None:
        self._ignore = list(ignore)
        pairs = _pairs(root, split, "images/{split}", "labels/{split}", IMAGES)
        super().__init__(pairs, classes, identity(len(classes), *ignore), f"ignore {ignore}" if ignore else "")

    def _unknown(self, value: int) -> str:
        if 0 <= value < 256:
            hint = f"data.ignore: {[*self._ignore, value]} would also ignore {value}"
        else:
            hint = "it must be from 0 to 255"
        return f"{super()._unknown(value)}; {hint}"
