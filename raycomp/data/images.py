# SPDX-License-Identifier: Apache-2.0
"""Read image files: rotated as their EXIF data says, 8 bits per channel; labels keep the stored values."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from raycomp.errors import UserError, first_line, logger

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")
_FEW_BITS = {"L;2": 85, "L;4": 17}  # Pillow scales 2-bit and 4-bit grey to 0..255
_ROTATED = (b"Exif", b"EXIF", b"eXIf", b"exif", b"tiff:Orientation")  # one occurs in every rotated file


def listed(folder: Path, suffixes: Sequence[str], pattern: str = "*") -> list[Path]:
    """List files sorted by name, with suffixes in any case; hidden files are skipped."""
    return sorted(p for p in folder.glob(pattern) if p.suffix.lower() in suffixes and not p.name.startswith("."))


def read_image(path: Path) -> np.ndarray:
    """Read an image as (H, W, 3) uint8 RGB; transparency is dropped, and 16 bits become 8.

    Raises:
        UserError: if the file is not an image, or its values have no known range.
    """
    image, _ = _opened(path)
    deep = image.mode in _SIXTEEN or (image.mode == "I" and path.suffix.lower() == ".png")  # before Pillow 11
    if not deep and image.mode in ("I", "F"):
        kind = "float" if image.mode == "F" else "32-bit"
        raise UserError(f"{path}: {kind} values have no known range; save it with 8 or 16 bits per channel")
    if deep:  # keep the high byte, as Pillow does for 16-bit colour
        grey = (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))


def read_label(path: Path) -> np.ndarray:
    """Read the stored values (H, W) of a label file, uint8 or int64; a palette image gives indices, not colours.

    Raises:
        UserError: if the file is not an image, or has several channels or fractions.
    """
    image, raw = _opened(path)
    if len(image.getbands()) > 1 or image.mode == "F":
        what = "fractions" if image.mode == "F" else f"{len(image.getbands())} channels ({image.mode})"
        raise UserError(f"{path}: a label has {what}, expected one integer per pixel")
    stored: np.ndarray = np.array(image, np.uint8 if image.mode in ("1", "L", "P") else np.int64)
    return stored // _FEW_BITS[raw] if raw in _FEW_BITS else stored


def read_differently(data: bytes, is_label: bool) -> bool:
    """Return whether `read_image` or `read_label` rotates this file or scales its values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as image:
                raw = _raw_mode(image)
                scaled = raw in _FEW_BITS if is_label else image.mode in (*_SIXTEEN, "I", "F")
                has_exif = any(word in data for word in _ROTATED)
                return scaled or (has_exif and image.getexif().get(ExifTags.Base.Orientation, 1) != 1)
        except Exception:  # reading the file reports the error with its name
            logger.debug("looking for the orientation of an image", exc_info=True)
            return False


def _opened(path: Path) -> tuple[Image.Image, str]:
    """Decode an image, rotated by its EXIF orientation; also return its stored pixel format."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged EXIF data, and sizes that Pillow still reads
        try:
            with Image.open(path) as image:
                raw = _raw_mode(image)
                image.load()
                return ImageOps.exif_transpose(image), raw
        except UnidentifiedImageError:
            raise UserError(f"{path}: cannot be read as an image (Pillow does not know its format)") from None
        except Image.DecompressionBombError:
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow refuses larger images
            raise UserError(f"{path}: more than {limit} pixels; cut it into smaller images") from None
        except Exception as error:  # Pillow's decoders raise various exceptions on damaged files
            logger.debug("reading %s", path, exc_info=True)
            raise UserError(f"{path}: cannot be read as an image ({first_line(error)})") from None


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Return Pillow's name of the stored pixel format, for example `L;4`."""
    args = image.tile[0][3] if image.tile else ""
    return str(args if isinstance(args, str) else args[0] if args else "")
