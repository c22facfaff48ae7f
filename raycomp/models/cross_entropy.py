"""Cross-entropy over what is labelled, without asking the device whether anything is."""

import torch.nn.functional as F
from torch import Tensor

from raycomp.data.samples import IGNORE


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """torch's mean over labelled places; where there are none, 0 with gradients of 0, and not NaN.

    Args:
        logits: (B, K, height, width).
        labels: (B, height, width), classes or IGNORE.
    """
    total = F.cross_entropy(logits.float(), labels.long(), ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)
