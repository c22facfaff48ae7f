# SPDX-License-Identifier: Apache-2.0
"""Results of the paper by data set, from its Tables 1 and 2, with a Segmenter on a distilled DeiT-B/16.

Nguyen & Cheung, "When Token Compression Breaks: Structural Pruning vs. Token Reduction for Robust ViT Segmentation
under High Compression", arXiv 2607.02237.
"""

from typing import NamedTuple

from raycomp.config import SweepConfig
from raycomp.data.corruptions import SEVERITIES


class Published(NamedTuple):
    """One entry of a table; mIoU in %."""

    gflops: float
    clean: float
    corrupted: float


class Protocol(NamedTuple):
    """Evaluation protocol of a published figure."""

    split: tuple[str, ...]
    """Possible names of the split."""
    images: int
    short_side: int
    """Short side of images after resizing, pixels."""
    window: int
    """Side of the sliding window, pixels."""
    strides: tuple[int, ...]
    """Stride of the window, pixels: in evaluation during training, then in the released evaluation script."""


DENSE = "dense"

PROTOCOLS = {
    "ade20k": Protocol(("val", "validation"), 2000, 512, 512, (512, 480)),
    "cityscapes": Protocol(("val",), 500, 1024, 768, (512, 736)),
}
"""Protocols of the paper and Segmenter: every image of the split at its original size, and its 80 variants."""

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


def departures(config: SweepConfig, stage: str = "full") -> list[str]:
    """Return why the figures of a stage cannot be compared with published ones; empty if they can."""
    data, full, protocol = config.data, config.evaluation.full, PROTOCOLS.get(config.data.dataset)
    if protocol is None:
        return [f"the paper has no figures for {data.dataset}"]
    window = data.window or (config.model.shape.image if config.model.shape is not None else None)
    stride = data.stride or (min(window) if window is not None else None)
    size = 1024 if data.short_side is None and data.dataset == "cityscapes" else data.short_side  # the stored size
    splits, images, side, square, strides = protocol
    shape = "" if window is None else f"{window[0]}x{window[1]}"
    reasons = {
        f"the figures are of the {stage} stage": stage == "search",
        f"the split is {data.eval_split}, not {splits[0]}": data.eval_split not in splits,
        f"clean mIoU is of {full.clean} images, not {images}": full.clean < images,
        f"corrupted mIoU is of {full.corrupted} images per variant, not {images}": full.corrupted < images,
        "corrupted mIoU does not cover all severities": set(full.severities) != set(SEVERITIES),
        "labels are resized (evaluation.at)": config.evaluation.at == "resized" and data.short_side is not None,
        f"the short side of images is {size or 'not the same for all images'}, not {side}": size != side,
        f"windows are {shape}, not {square}x{square}": window not in (None, (square, square)),
        f"windows are {stride} pixels apart, not {strides[0]}": stride not in (None, *strides),
    }
    return [reason for reason, applies in reasons.items() if applies]


def comparability(config: SweepConfig, stage: str = "full") -> str:
    """Return a sentence that says whether the figures of a stage can be compared with published ones."""
    if not (reasons := departures(config, stage)):
        return "Images and protocol match those of published figures."
    return f"Not comparable with published figures: {'; '.join(reasons)}."
