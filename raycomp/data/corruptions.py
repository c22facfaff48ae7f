# SPDX-License-Identifier: Apache-2.0
"""The 16 image corruptions at 5 severities: seeded, and compatible with current libraries.

Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019; Michaelis et al., "Benchmarking Robustness in Object Detection", 2019.

imagecorruptions 1.1.2 predates numpy 2, scikit-image 0.19 and setuptools 81, and draws from numpy's
global state. This module contains all workarounds: while the library is imported, it provides the two
modules that no longer exist; afterwards, it replaces names in the library's namespace by versions
that behave as before and draw from a local generator. No global state changes. Slow imports wait for
the first use, because measuring on corrupted images needs only their names.
"""

import sys
import threading
import zlib
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from raycomp.errors import UserError, nearest

TYPES = (
    "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise",
    "defocus_blur", "motion_blur", "glass_blur", "gaussian_blur",
    "brightness", "contrast", "saturate", "jpeg_compression",
    "snow", "spatter", "fog", "frost",
)  # fmt: skip
SEVERITIES = (1, 2, 3, 4, 5)
VARIANTS = tuple((kind, severity) for kind in TYPES for severity in SEVERITIES)
VERSION = 1  # part of every cache key; increase it when the same seed gives other pixels
_SMALLEST = 32
_lock = threading.Lock()  # corrupt() puts a generator into the library's namespace


def corrupt(image: np.ndarray, kind: str, severity: int, seed: int) -> np.ndarray:
    """Corrupt one image.

    Args:
        image: HxWx3 uint8, RGB, at least 32 pixels per side.
        kind: one of `TYPES`.
        severity: 1 to 5.
        seed: equal seeds give equal pixels, in any process.

    Returns:
        HxWx3 uint8.

    Raises:
        UserError: if the kind or severity is unknown, or the image is too small.
    """
    if kind not in TYPES:
        raise UserError(f"no corruption {kind!r}: {nearest(kind, TYPES)}")
    if severity not in SEVERITIES:
        raise UserError(f"severity {severity} is outside 1 to 5")
    if min(image.shape[:2]) < _SMALLEST:
        raise UserError(
            f"an image of {image.shape[1]}x{image.shape[0]} is too small to corrupt; the minimum side is {_SMALLEST}"
        )
    words = [VERSION, zlib.crc32(kind.encode()), severity, seed]
    library = _import_library()
    with _lock, np.errstate(invalid="ignore", divide="ignore"):
        library.np = _old_numpy(np.random.RandomState(np.random.MT19937(np.random.SeedSequence(words))))
        library.sk = _old_skimage(np.random.default_rng([*words, 1]))
        result = np.asarray(getattr(library, kind)(Image.fromarray(image), severity))
    return np.ascontiguousarray(np.nan_to_num(result, nan=0.0).clip(0, 255).astype(np.uint8))


def _old_numpy(random: np.random.RandomState) -> Any:
    """Return numpy with `random` for its global random functions, and with the name float_ of numpy 1."""
    return SimpleNamespace(**{**vars(np), "random": random, "float_": np.float64})


def _old_skimage(rng: np.random.Generator) -> Any:
    import skimage.color
    import skimage.util

    util = SimpleNamespace(random_noise=partial(skimage.util.random_noise, rng=rng))
    return SimpleNamespace(util=util, color=skimage.color)


def _gaussian(image: np.ndarray, sigma: float, multichannel: bool = False, **options: Any) -> np.ndarray:
    import skimage.filters

    return skimage.filters.gaussian(image, sigma=sigma, channel_axis=-1 if multichannel else None, **options)


@cache
def _import_library() -> Any:
    """Import imagecorruptions.corruptions with the two modules it needs that no longer exist."""
    from scipy import ndimage

    spec = find_spec("imagecorruptions")
    if spec is None or spec.origin is None:
        raise ImportError("imagecorruptions is not installed")
    folder = Path(spec.origin).parent
    resources, interpolation = ModuleType("pkg_resources"), ModuleType("scipy.ndimage.interpolation")
    resources.resource_filename = lambda _package, name: str(folder / name)  # type: ignore[attr-defined]
    interpolation.map_coordinates = ndimage.map_coordinates  # type: ignore[attr-defined]
    stand_ins = {"pkg_resources": resources, "scipy.ndimage.interpolation": interpolation}
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        from imagecorruptions import corruptions
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    corruptions.gaussian = _gaussian
    return corruptions
