"""A data set of one's own: `images/SPLIT/NAME.jpg` (or another of `IMAGES`) beside `labels/SPLIT/NAME.png`."""

from collections.abc import Sequence
from pathlib import Path

from raycomp.data.folders import FolderSamples, by_name, identity, matched, split_folder
from raycomp.data.images import IMAGES, listed


class Own(FolderSamples):
    """A split of it; label values are indices of the classes, 255 and `ignore` are not labelled."""

    def __init__(self, root: Path, split: str, classes: Sequence[str], ignore: Sequence[int]) -> None:
        images = split_folder(root, ["images/{split}"], split, "images")
        labels = split_folder(root, ["labels/{split}"], split, "labels")
        self._ignore = list(ignore)
        pairs = matched(by_name(listed(images, IMAGES)), by_name(listed(labels, [".png"])), images)
        super().__init__(pairs, classes, identity(len(classes), *ignore), f"ignore {ignore}" if ignore else "")

    def _unknown(self, value: int) -> str:
        wider = (
            f"data.ignore: {[*self._ignore, value]} would leave out {value}, too"
            if 0 <= value < 256
            else "it must be from 0 to 255"
        )
        return f"{super()._unknown(value)}; {wider}"
