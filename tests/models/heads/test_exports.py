# SPDX-License-Identifier: Apache-2.0
"""Heads as ONNX graphs and torch.export programs, for any batch."""

import numpy as np
import pytest
import torch

from raycomp.deploy.onnx import graph
from tests.conftest import seeded_images, seeded_model
from tests.helpers.recipes import random_recipe
from tests.models.heads.shapes import shape_of

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("name", ["eomt", "dpt project", "upernet", "pup"])
def test_exported_logits_equal_the_models(name):
    """Grids are odd, and tokens merge."""
    shape = shape_of(name, image=(40, 56))
    model, images = seeded_model(shape), seeded_images(shape)
    model.encoder.merger = random_recipe(shape, np.random.default_rng(0), "mean_keys").merge
    with torch.inference_mode():
        expected = model(images)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},))
    session = onnxruntime.InferenceSession(graph(model, images).SerializeToString())
    for batch in (slice(0, 2), slice(0, 1)):
        [logits] = session.run(None, {"images": images[batch].numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), expected[batch], rtol=0, atol=1e-4)
        with torch.inference_mode():
            torch.testing.assert_close(program.module()(images[batch]), expected[batch], rtol=0, atol=1e-4)
