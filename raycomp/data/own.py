"""A data set of one's own: `images/SPLIT/NAME.jpg` (or .png) beside `labels/SPLIT/NAME.png`."""

from collections.abc import Sequence
from pathlib import Path

from raycomp.data.folders import FolderSamples, identity, matched, split_folder

_IMAGES = (".png", ".jpg", ".jpeg")


class Own(FolderSamples):
    """A split of it; label values are indices of the classes, 255 is not labelled."""

    def __init__(self, root: Path, split: str, classes: Sequence[str]) -> None:
        images = split_folder(root, ["images/{split}"], split, "images")
        labels = split_folder(root, ["labels/{split}"], split, "labels")
        files = sorted(path for path in images.iterdir() if path.suffix.lower() in _IMAGES)
        label_of = {path.stem: path for path in labels.glob("*.png")}
        super().__init__(matched(files, label_of, "", images), classes, identity(len(classes)))
