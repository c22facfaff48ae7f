"""Draw segmentations: a colour a class, the same in every picture."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display on a cluster
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from raycomp.data.samples import IGNORE
from raycomp.files import written

_PALETTE = (np.array([plt.get_cmap("tab20")(i % 20)[:3] for i in range(256)]) * 255).astype(np.uint8)
_PALETTE[IGNORE] = 0
_MOST_CLASSES = 24  # in a legend
_SEE_THROUGH = 0.55


def painted(classes: np.ndarray) -> np.ndarray:
    """Class indices (H, W) uint8 as colours (H, W, 3) uint8; ignored pixels are black."""
    return _PALETTE[classes]


def legend(figure: Figure, shown: np.ndarray, classes: Sequence[str], columns: int) -> None:
    """Name the colours of the classes among `shown` below a figure."""
    present = [c for c in np.unique(shown) if c < len(classes)]
    patches = [Patch(color=_PALETTE[c] / 255, label=classes[c]) for c in present[:_MOST_CLASSES]]
    with plt.rc_context({"text.parse_math": False}):  # a name may have dollar signs
        figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def draw(image: np.ndarray, predicted: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """An image (H, W, 3), its segmentation (H, W), and one over the other, as a PNG."""
    height, width = predicted.shape
    over = (_SEE_THROUGH * painted(predicted) + (1 - _SEE_THROUGH) * image).astype(np.uint8)
    across = 12.0
    figure, panels = plt.subplots(1, 3, figsize=(across, across / 3 * height / width + 0.8), layout="constrained")
    for axes, part in zip(panels, (image, over, painted(predicted)), strict=True):
        axes.imshow(part, interpolation="nearest")
        axes.axis("off")
    legend(figure, predicted, classes, 8)
    with written(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
