# SPDX-License-Identifier: Apache-2.0
"""A compressed model under torch.compile, with the static shapes of its recipe."""

import shutil

import pytest
import torch

from tests.conftest import TINY, seeded_images
from tests.helpers.deploy import compressed


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("method", ["mean_keys", "windows_near"])
def test_a_compressed_model_compiles_whole_and_answers_the_same(model, saliency, method):
    made = compressed(model, saliency, method)
    images = seeded_images(TINY)
    compiled = torch.compile(made, fullgraph=True, dynamic=False)  # one graph: nothing falls back to Python
    with torch.inference_mode():
        torch.testing.assert_close(compiled(images), made(images), rtol=1e-4, atol=1e-4)
