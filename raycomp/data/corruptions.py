"""The 16 image corruptions x 5 severities, through `imagecorruptions`, seeded and working today.

Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019; Michaelis et al., "Benchmarking Robustness in Object Detection", 2019.

imagecorruptions 1.1.2 predates numpy 2, scikit-image 0.19 and setuptools 81, and draws from numpy's
global state. This module is the one place that knows: it lends the library, while it is imported,
the two modules that are gone, and afterwards names in its own namespace that behave as of old and
draw from a generator of ours. No global state is touched. The slow imports wait for the first use:
what measures on corrupted images needs only their names.
"""

import sys
import threading
import zlib
from functools import cache
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
VERSION = 1  # part of every cache key; raise it when the same seed gives other pixels
_SMALLEST = 32
_lock = threading.Lock()  # the generator below is lent to the library's namespace


def corrupt(image: np.ndarray, kind: str, severity: int, seed: int) -> np.ndarray:
    """Corrupt one image.

    Args:
        image: HxWx3 uint8, RGB, at least 32 pixels a side.
        kind: one of `TYPES`.
        severity: 1 to 5.
        seed: equal seeds give equal pixels, in any process.

    Returns:
        HxWx3 uint8.

    Raises:
        UserError: for an unknown kind or severity, or an image that is too small.
    """
    if kind not in TYPES:
        raise UserError(f"no corruption {kind!r}: {nearest(kind, TYPES)}")
    if severity not in SEVERITIES:
        raise UserError(f"severity {severity} is outside 1 to 5")
    if min(image.shape[:2]) < _SMALLEST:
        raise UserError(
            f"an image of {image.shape[1]}x{image.shape[0]} is too small to corrupt; at least {_SMALLEST} pixels a side"
        )
    words = [VERSION, zlib.crc32(kind.encode()), severity, seed]
    library = _import_library()
    with _lock, np.errstate(invalid="ignore", divide="ignore"):
        library.np = _numpy_of_old(np.random.RandomState(np.random.MT19937(np.random.SeedSequence(words))))
        library.sk = _skimage_of_old(np.random.default_rng([*words, 1]))
        result = np.asarray(getattr(library, kind)(Image.fromarray(image), severity))
    return np.ascontiguousarray(np.nan_to_num(result, nan=0.0).clip(0, 255).astype(np.uint8))


def _numpy_of_old(random: np.random.RandomState) -> Any:
    """numpy with its global random functions drawing from `random`, and the name float_ of numpy 1."""
    return SimpleNamespace(**{**vars(np), "random": random, "float_": np.float64})


def _skimage_of_old(rng: np.random.Generator) -> Any:
    import skimage.color
    import skimage.util

    def random_noise(image: np.ndarray, **options: Any) -> np.ndarray:
        return skimage.util.random_noise(image, rng=rng, **options)

    return SimpleNamespace(util=SimpleNamespace(random_noise=random_noise), color=skimage.color)


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
    lent = {"pkg_resources": resources, "scipy.ndimage.interpolation": interpolation}
    before = {name: sys.modules.get(name) for name in lent}
    sys.modules.update(lent)
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
