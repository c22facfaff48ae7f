# SPDX-License-Identifier: Apache-2.0
"""Drawings of segmentations. A class has the same colour in every picture."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from raycomp.data.samples import IGNORE
from raycomp.report.drawing import save

_PALETTE = (np.array([plt.get_cmap("tab20")(i % 20)[:3] for i in range(256)]) * 255).astype(np.uint8)
_PALETTE[IGNORE] = 0
_LEGEND_CLASSES = 24  # maximum in a legend
_OPACITY = 0.55


def painted(classes: np.ndarray) -> np.ndarray:
    """Return class indices (H, W) uint8 as colours (H, W, 3) uint8; ignored pixels are black."""
    return _PALETTE[classes]


def legend(figure: Figure, shown: np.ndarray, classes: Sequence[str], columns: int) -> None:
    """Add a legend below a figure for the classes that occur in `shown`."""
    present = [c for c in np.unique(shown) if c < len(classes)]
    patches = [Patch(color=_PALETTE[c] / 255, label=classes[c]) for c in present[:_LEGEND_CLASSES]]
    with plt.rc_context({"text.parse_math": False}):  # names may contain dollar signs
        figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def draw(image: np.ndarray, predicted: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Draw an image (H, W, 3), its segmentation (H, W), and an overlay of both into a PNG."""
    height, width = predicted.shape
    overlay = (_OPACITY * painted(predicted) + (1 - _OPACITY) * image).astype(np.uint8)
    inches = 12.0
    figure, panels = plt.subplots(1, 3, figsize=(inches, inches / 3 * height / width + 0.8), layout="constrained")
    for axes, picture in zip(panels, (image, overlay, painted(predicted)), strict=True):
        axes.imshow(picture, interpolation="nearest")
        axes.axis("off")
    legend(figure, predicted, classes, 8)
    save(figure, path, dpi=110)
