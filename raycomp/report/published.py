"""What the paper measured: its Tables 1 and 2, by data set, with a Segmenter on a distilled DeiT-B/16.

Nguyen & Cheung, "When Token Compression Breaks: Structural Pruning vs. Token Reduction for Robust ViT Segmentation
under High Compression", arXiv 2607.02237.
"""

from typing import NamedTuple


class Published(NamedTuple):
    """One entry; mIoU in %."""

    gflops: float
    clean: float
    corrupted: float


DENSE = "dense"

PUBLISHED: dict[str, dict[str, tuple[Published, ...]]] = {
    "ade20k": {
        DENSE: (Published(129.70, 47.22, 35.58),),
        "ALGM": (Published(92.31, 46.88, 34.64), Published(51.21, 44.52, 31.56), Published(34.58, 42.85, 30.20)),
        "CTS": (Published(88.57, 46.03, 34.76), Published(49.93, 44.05, 33.66), Published(37.95, 42.16, 32.69)),
        "ToMe": (Published(93.00, 46.94, 35.38), Published(49.51, 41.01, 30.24), Published(35.08, 23.94, 16.86)),
        "NViT": (Published(96.40, 47.93, 36.25), Published(49.37, 45.40, 34.20), Published(33.82, 45.30, 32.86)),
        "NViT+ToMe": (Published(49.02, 46.79, 34.83), Published(34.84, 45.71, 34.33)),
    },
    "cityscapes": {
        DENSE: (Published(347.77, 78.25, 63.26),),
        "ALGM": (Published(190.27, 77.98, 61.68), Published(157.19, 76.86, 60.60), Published(98.94, 73.15, 57.20)),
        "CTS": (Published(185.52, 78.15, 63.07), Published(150.03, 77.54, 62.40), Published(100.18, 73.81, 60.99)),
        "ToMe": (Published(183.83, 77.40, 62.02), Published(142.11, 75.25, 60.74), Published(98.60, 64.50, 50.56)),
        "NViT": (Published(215.61, 78.12, 61.78), Published(138.55, 77.52, 61.04), Published(95.05, 76.76, 58.75)),
        "NViT+ToMe": (Published(141.46, 77.58, 60.69), Published(95.87, 77.52, 60.71)),
    },
}
