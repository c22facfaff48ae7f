"""Labels of pixels straight from class scores of patches."""

from torch import Tensor

from raycomp.shape import Size


def fused_labels(scores: Tensor, patch: int, size: Size) -> Tensor:
    """The most likely class of every pixel, of class scores of patches upsampled bilinearly; equals: the lower class.

    Arithmetic is float32 for every dtype. The logits are never written.

    Args:
        scores: (B, K, h, w), at most 255 classes, for which `raycomp.kernels.usable` holds.
        patch: side of a patch, pixels; half-pixel centres as in F.interpolate.
        size: height and width (H, W), at most h * patch and w * patch.

    Returns:
        (B, H, W) uint8.
    """
    from raycomp.kernels import upsample

    return upsample.labels(scores, patch, size)
