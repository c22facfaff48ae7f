# SPDX-License-Identifier: Apache-2.0
"""GFLOPs of a built model by fvcore, with the attention handler that fvcore lacks."""

from typing import Any

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape

from raycomp.models import block
from raycomp.models.segmenter import Segmenter


def counted_gflops(model: Segmenter, monkeypatch: pytest.MonkeyPatch) -> float:
    """One image through the model, counted op by op.

    Attention runs unpadded while counting: zeros that only please a fused kernel are no part of a recipe.
    """
    monkeypatch.setattr(block, "_padded", lambda x, width: x)
    return counted(model, model.shape.image) / 1e9


def counted(model: torch.nn.Module, image: tuple[int, int], x: torch.Tensor | None = None) -> int:
    """Multiply-adds of one forward pass on x, else on an image of zeros, height x width pixels."""
    counter = FlopCountAnalysis(model, torch.zeros(1, 3, *image) if x is None else x)
    counter.set_op_handle("aten::scaled_dot_product_attention", _attention)
    counter.set_op_handle("aten::avg_pool2d", lambda inputs, outputs: 0)  # halves pixels, as a gather would
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return int(counter.total())


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    (batch, heads, queries, qk), (_, _, keys, v) = get_shape(inputs[0]), get_shape(inputs[2])
    return int(batch * heads * queries * keys * (qk + v))
