"""Labels of pixels straight from class scores of patches."""

import torch
from torch import Tensor

from raycomp import kernels
from raycomp.models.segmenter import upsampled
from raycomp.shape import Size


def fused_labels(scores: Tensor, patch: int, size: Size) -> Tensor:
    """The most likely class of every pixel, of class scores of patches upsampled bilinearly; equals: the lower class.

    Arithmetic is float32 for every dtype. A kernel never writes the logits; without it they are made for as many
    images at once as have fewer than 2^31 logits, which is the most that torch's upsampling takes.

    Args:
        scores: (B, K, h, w), at most 255 classes.
        patch: side of a patch, pixels; half-pixel centres as in F.interpolate.
        size: height and width (H, W), at most h * patch and w * patch.

    Returns:
        (B, H, W) uint8.
    """
    if kernels.usable(scores):
        from raycomp.kernels import upsample

        return upsample.labels(scores, patch, size)
    _, K, h, w = scores.shape
    at_once = max(1, (2**31 - 1) // (K * h * w * patch**2))
    return torch.cat([upsampled(part.float(), patch, size).argmax(1).byte() for part in scores.split(at_once)])
