# SPDX-License-Identifier: Apache-2.0
"""One linear map from each token to the classes.

Tensors: `head.weight` (K, E), `head.bias` (K,).
"""

from torch import Tensor

from raycomp.decoders.linear_steps import steps
from raycomp.decoders.operations import Input
from raycomp.models.heads.head import TokenHead
from raycomp.shape import ModelShape


class LinearHead(TokenHead):
    """One linear map from each patch to the classes."""

    def __init__(self, shape: ModelShape, embed: int) -> None:
        super().__init__(shape)
        self.build(steps(Input.unmerged(shape, embed)))

    def forward(self, patches: Tensor) -> Tensor:
        """Map patches (B, N, E) to class scores (B, N, K)."""
        return self.layer("head", patches)
