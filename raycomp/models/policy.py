"""Build the policy networks of CTS; `raycomp.policies` has their layers as numbers and what they cost."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycomp.data.samples import IGNORE
from raycomp.models._timm import create_model
from raycomp.policies import check_policy, small_channels


class Policy(nn.Module):
    """Images (B, 3, H, W) to two logits (B, 2, H/2p, W/2p): several classes, one class."""

    def __init__(self, kind: str, patch: int, pretrained: bool = False) -> None:
        super().__init__()
        check_policy(kind, patch)
        self.kind, self.patch = kind, patch
        if kind == "small":
            self.features: nn.Module = _small(patch)
            width = small_channels(patch)[-1]
        else:
            self.features = create_model(
                "efficientnet_lite0", pretrained=pretrained, features_only=True, out_indices=(4,)
            )
            width = self.features.feature_info.channels()[-1]  # type: ignore[union-attr, operator]
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images)
        return self.head(x if self.kind == "small" else x[-1])


def _small(patch: int) -> nn.Sequential:
    layers, inputs = [], 3
    for outputs in small_channels(patch):
        layers += _convolution(inputs, outputs, 2)
        inputs = outputs
    return nn.Sequential(*layers, *_convolution(inputs, inputs, 1))


def _convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def policy_loss(policy: nn.Module, images: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """Cross-entropy of a policy's answers against `one_class`; see `raycomp.losses.Loss`."""
    logits = policy(images).float()
    truth = one_class(labels, images.shape[-1] // logits.shape[-1], IGNORE)
    if (truth == IGNORE).all():  # a mean over nothing would be NaN
        yield logits.sum() * 0
        return
    yield F.cross_entropy(logits, truth, ignore_index=IGNORE)


def one_class(labels: Tensor, superpatch: int, ignore: int) -> Tensor:
    """Ground truth of a policy: 1 where a superpatch's labelled pixels are of one class, else 0.

    Args:
        labels: (B, H, W), sides multiples of `superpatch`.

    Returns:
        (B, H / superpatch, W / superpatch) int64; `ignore` where no pixel is labelled.
    """
    B, height, width = labels.shape
    cells = labels.view(B, height // superpatch, superpatch, width // superpatch, superpatch).transpose(2, 3).flatten(3)
    labelled = cells != ignore
    low = torch.where(labelled, cells, torch.full_like(cells, 255)).amin(-1)
    high = torch.where(labelled, cells, torch.zeros_like(cells)).amax(-1)
    return torch.where(labelled.any(-1), (low == high).long(), torch.full_like(low, ignore, dtype=torch.int64))
