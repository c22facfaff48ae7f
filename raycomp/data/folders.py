"""Pairs of image and label files, read with checks that name the file and the value at fault."""

import hashlib
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from raycomp.data.samples import IGNORE, Sample
from raycomp.errors import UserError, first_line, nearest


class FolderSamples:
    """A split made of files. `lookup` maps stored label values 0..255 to classes.

    Values of `lookup` are a class index, 255 for ignored, or -1 for a value that must not occur.
    """

    def __init__(self, pairs: Sequence[tuple[Path, Path]], classes: Sequence[str], lookup: np.ndarray) -> None:
        self.pairs, self.classes, self.lookup = list(pairs), tuple(classes), lookup

    def __len__(self) -> int:
        return len(self.pairs)

    @cached_property
    def fingerprint(self) -> str:
        """Of names and contents, so that copies of a data set on other machines are the same one."""
        digest = hashlib.sha256()
        for path in (p for pair in self.pairs for p in pair):
            with path.open("rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:12]

    def __getitem__(self, index: int) -> Sample:
        image_path, label_path = self.pairs[index]
        image = np.array(_read(image_path).convert("RGB"))
        stored = np.array(_read(label_path))
        if stored.ndim != 2:
            raise UserError(f"{label_path}: labels have {stored.ndim} dimensions, expected one value a pixel")
        if image.shape[:2] != stored.shape:
            raise UserError(f"{label_path}: labels are {stored.shape}, the image {image_path.name} {image.shape[:2]}")
        label = np.where(stored < 256, self.lookup[np.minimum(stored, 255)], -1)
        if (label < 0).any():
            value = int(stored[label < 0][0])
            allowed = np.flatnonzero(self.lookup >= 0)
            near = int(allowed[np.abs(allowed - value).argmin()])
            raise UserError(
                f"{label_path}: label value {value} is outside the {len(self.classes)} classes; nearest allowed: {near}"
            )
        return image, label.astype(np.uint8)


def split_folder(root: Path, candidates: Sequence[str], split: str, what: str) -> Path:
    """The first existing folder among `candidates` under root, `{split}` filled in.

    Raises:
        UserError: naming the folder that is missing and the nearest one that is there.
    """
    if not root.is_dir():
        around = root.resolve().parent
        there = sorted(p.name for p in around.iterdir() if p.is_dir() and p.name[0] != ".") if around.is_dir() else []
        near = nearest(root.name, there) if there else "there is no folder"
        raise UserError(f"data.root: no folder {root.name} in {around}; {near}")
    for candidate in candidates:
        if (folder := root / candidate.format(split=split)).is_dir():
            return folder
    missing = root / candidates[0].format(split=split)
    parent = missing.parent
    there = sorted(p.name for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []
    raise UserError(
        f"data.root: no {what} in {missing}; " + (nearest(split, there) if there else f"no folder {parent}")
    )


def matched(images: Sequence[Path], label_of: dict[str, Path], key: str, folder: Path) -> list[tuple[Path, Path]]:
    """Pair images with labels by the name that `key` cuts off; every image needs a label."""
    if not images:
        raise UserError(f"data.root: no images in {folder}")
    pairs = []
    for image in images:
        name = image.stem.removesuffix(key)
        if name not in label_of:
            alone = sum(one.stem.removesuffix(key) not in label_of for one in images)
            raise UserError(f"{image}: has no label file ({alone} of {len(images)} images have none)")
        pairs.append((image, label_of[name]))
    return pairs


def lookup_table(values: dict[int, int]) -> np.ndarray:
    """A table of 256 entries: the given stored values, -1 elsewhere."""
    table = np.full(256, -1, np.int16)
    for stored, cls in values.items():
        table[stored] = cls
    return table


def identity(classes: int, *ignored: int) -> np.ndarray:
    """Stored values are class indices; 255 and `ignored` are not classes."""
    return lookup_table({i: i for i in range(classes)} | dict.fromkeys((IGNORE, *ignored), IGNORE))


def _read(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is too large is refused below
            with Image.open(path) as image:
                image.load()
                return image
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: too large an image to read ({first_line(error)})") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{path}: cannot be read as an image ({str(error).splitlines()[0]})") from None
