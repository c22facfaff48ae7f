# SPDX-License-Identifier: Apache-2.0
"""Where kernels are checked: on a CUDA device, else by Triton's interpreter on the CPU."""

import numpy as np
import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def bfloat16_products(monkeypatch):
    """Triton's interpreter (3.6, 3.9) multiplies the bits of bfloat16 as integers; here it takes the numbers."""
    from triton import language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    multiply = InterpreterBuilder.create_dot

    def wide(x: TensorHandle) -> TensorHandle:
        if x.dtype != tl.bfloat16:
            return x
        return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def product(self, a, b, *others):
        return multiply(self, wide(a), wide(b), *others)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", product)
