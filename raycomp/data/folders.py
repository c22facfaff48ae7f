# SPDX-License-Identifier: Apache-2.0
"""Pairs of image and label files, read with checks whose errors name the file and the value."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from raycomp.data.images import read_differently, read_image, read_label
from raycomp.data.samples import IGNORE, Sample
from raycomp.errors import UserError, nearest
from raycomp.storage import resolved


class FolderSamples:
    """A split stored in files. `lookup` maps stored label values 0..255 to classes.

    Its values are class indices, 255 for ignored, or -1 for values that must not occur.
    """

    def __init__(
        self, pairs: Sequence[tuple[Path, Path]], classes: Sequence[str], lookup: np.ndarray, rules: str = ""
    ) -> None:
        """Open pairs of files; `rules` adds to the fingerprint what affects labels besides files."""
        self.pairs, self.classes, self.lookup, self._rules = list(pairs), tuple(classes), lookup, rules

    def __len__(self) -> int:
        return len(self.pairs)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of names and contents, so that copies of a data set on other machines match."""
        digest = hashlib.sha256(self._rules.encode())
        for pair in self.pairs:
            for path, is_label in zip(pair, (False, True), strict=True):
                try:
                    data = path.read_bytes()
                except OSError as error:
                    raise UserError(f"{path}: cannot be read ({error.strerror})") from None
                digest.update(path.name.encode(errors="surrogateescape") + hashlib.sha256(data).digest())
                if read_differently(data, is_label):  # older releases read it differently: their caches must not match
                    digest.update(b"turned or scaled")
        return digest.hexdigest()[:12]

    def __getitem__(self, index: int) -> Sample:
        image_path, label_path = self.pairs[index]
        image, label = read_image(image_path), self.label(index)
        if image.shape[:2] != label.shape:
            raise UserError(f"{label_path}: labels are {label.shape}, the image {image_path.name} {image.shape[:2]}")
        return image, label

    def label(self, index: int) -> np.ndarray:
        """Read only the label (H, W) uint8; raises UserError if a value is not a class."""
        path = self.pairs[index][1]
        stored = read_label(path)
        if stored.dtype == np.uint8:
            label = self.lookup[stored]
        else:  # in signed files -1 means 255
            stored = np.where(stored == -1, IGNORE, stored)
            label = np.where((stored >= 0) & (stored < 256), self.lookup[stored.clip(0, 255)], -1)
        if (label < 0).any():
            raise UserError(f"{path}: {self._unknown(int(stored[label < 0][0]))}")
        return label.astype(np.uint8)

    def _unknown(self, value: int) -> str:
        classes = _ranges(np.flatnonzero((self.lookup >= 0) & (self.lookup != IGNORE)))
        unlabelled = _ranges(np.flatnonzero(self.lookup == IGNORE))
        return f"label value {value} is not one of {len(self.classes)} classes ({classes}); unlabelled is {unlabelled}"


def split_folder(root: Path, pattern: str, split: str, what: str) -> Path:
    """Return the folder of a split under root: a pattern with `{split}` filled in.

    Raises:
        UserError: naming the missing folder and the closest match.
    """
    if not root.is_dir():
        around = resolved(root).parent
        names = sorted(p.name for p in around.iterdir() if p.is_dir() and p.name[0] != ".") if around.is_dir() else []
        hint = nearest(root.name, names) if names else "it has no folders"
        raise UserError(f"data.root: no folder {root.name} in {around}; {hint}")
    folder = root / pattern.format(split=split)
    if folder.is_dir():
        return folder
    parent = folder.parent
    names = sorted(p.name for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []
    hint = nearest(split, names) if names else f"no folder {parent}"
    raise UserError(f"data.root: no {what} in {folder}; {hint}")


def by_name(files: Sequence[Path], ending: str = "") -> dict[str, Path]:
    """Map names, without `ending` and suffix, to files.

    Raises:
        UserError: if two files share a name, because one would be lost or both would share a label.
    """
    named: dict[str, Path] = {}
    for path in files:
        name = path.stem.removesuffix(ending)
        if name in named:
            raise UserError(f"{path}: {named[name].name} differs only in its suffix; rename or remove one")
        named[name] = path
    return named


def matched(images: dict[str, Path], labels: dict[str, Path], folder: Path) -> list[tuple[Path, Path]]:
    """Pair the images in `folder` with labels by name; every image needs a label."""
    if not images:
        raise UserError(f"data.root: no images in {folder}")
    unlabelled = [path for name, path in images.items() if name not in labels]
    if unlabelled:
        raise UserError(f"{unlabelled[0]}: has no label file ({len(unlabelled)} of {len(images)} images have none)")
    return [(path, labels[name]) for name, path in images.items()]


def lookup_table(values: dict[int, int]) -> np.ndarray:
    """Build a lookup table of 256 entries from stored values, with -1 elsewhere."""
    table = np.full(256, -1, np.int16)
    for stored, cls in values.items():
        table[stored] = cls
    return table


def identity(classes: int, *ignored: int) -> np.ndarray:
    """Build a lookup table for stored class indices; 255 and `ignored` are unlabelled."""
    return lookup_table({i: i for i in range(classes)} | dict.fromkeys((IGNORE, *ignored), IGNORE))


def _ranges(values: np.ndarray) -> str:
    """Format sorted values: `0 to 10, 255`."""
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
