# SPDX-License-Identifier: Apache-2.0
"""Graphs have the operators that onnxruntime runs fastest, and answer as before."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

from raycomp.deploy.onnx import checked_graph
from raycomp.deploy.onnx_operators import slice_before_norms, upsample_by_products
from raycomp.deploy.precision import kept_in_float32, linear_maps
from raycomp.models.block import GatedMlp, PlainMlp
from tests.conftest import TINY, seeded_images, seeded_model
from tests.helpers.deploy import compressed

IMAGES = seeded_images(TINY, 4)


def optimised(graph, tmp_path) -> Counter[str]:
    """How many operators of each kind onnxruntime runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that the file is for this machine
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.slow
def test_onnxruntime_fuses_what_it_can(model, saliency, tmp_path):
    made = compressed(model, saliency, "windows_near", seed=3)
    graph = checked_graph(made, IMAGES)[0]  # logits within 1e-4
    mlps = sum(isinstance(module, PlainMlp) for module in made.modules())
    assert not [module for module in made.modules() if isinstance(module, GatedMlp)]
    kinds = optimised(graph, tmp_path)
    assert kinds["BiasGelu"] == mlps > 0
    assert not {"Erf", "Resize", "SkipLayerNormalization", "Identity"} & kinds.keys()
    blocks = TINY.depth + TINY.decoder_depth
    assert kinds["Transpose"] <= 4 * blocks + 4 * TINY.depth  # queries, keys, values, outputs; 4 of a merge
    assert {one.domain for one in graph.opset_import} == {""}


@pytest.mark.slow
def test_the_tanh_approximation_of_gelu_is_fused_too(tmp_path):
    shape = TINY.model_copy(update={"activation": "gelu_tanh"})
    kinds = optimised(checked_graph(seeded_model(shape), IMAGES)[0], tmp_path)
    assert (kinds["FastGelu"], kinds["BiasGelu"]) == (TINY.depth, TINY.decoder_depth)
    assert not {"Tanh", "Erf"} & kinds.keys()


@pytest.mark.slow
def test_the_products_that_upsample_are_no_linear_maps(model):
    graph = checked_graph(model, IMAGES)[0]
    last = [node.name for node in graph.graph.node][-2:]
    assert [node.op_type for node in graph.graph.node][-2:] == ["MatMul", "MatMul"]
    assert not set(last) & set(linear_maps(graph))
    assert set(last) <= set(kept_in_float32(graph))


def resized(size: tuple[int, int], scale: float, mode: str = "linear", where: str = "half_pixel") -> onnx.ModelProto:
    """A graph that is one Resize."""
    sides = [round(side * scale) for side in size]
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2, *size])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2, *sides])
    weights = [numpy_helper.from_array(np.array([1, 1, scale, scale], np.float32), "scales")]
    options = {"mode": mode, "coordinate_transformation_mode": where}
    node = helper.make_node("Resize", ["scores", "", "scales"], ["logits"], **options)
    graph = helper.make_graph([node], "resized", [scores], [logits], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(graph, **inputs):
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


@pytest.mark.parametrize(("size", "scale"), [((5, 3), 8.0), ((32, 7), 4.0), ((1, 2), 16.0)])
def test_products_upsample_as_torch_does(size, scale):
    graph = resized(size, scale)
    upsample_by_products(graph)
    onnx.checker.check_model(graph, full_check=True)
    assert [node.op_type for node in graph.graph.node] == ["MatMul", "MatMul"]
    assert len(graph.graph.initializer) == 2  # the scales are gone
    scores = np.random.default_rng(0).standard_normal((3, 2, *size), dtype=np.float32)
    wanted = F.interpolate(torch.from_numpy(scores), scale_factor=scale, mode="bilinear").numpy()
    np.testing.assert_allclose(run(graph, scores=scores), wanted, atol=2e-6)


@pytest.mark.parametrize(
    "other", [((33, 4), 2.0), ((4, 4), 1.6), ((4, 4), 2.0, "nearest"), ((4, 4), 2.0, "linear", "align_corners")]
)
def test_other_upsampling_stays(other):
    graph = resized(*other)
    before = graph.SerializeToString()
    upsample_by_products(graph)
    assert graph.SerializeToString() == before


def test_tokens_are_chosen_before_they_are_normalised():
    """A norm that is used whole as well is kept; one that only loses tokens afterwards is not."""
    kind = TensorProto.FLOAT
    tokens = helper.make_tensor_value_info("x", kind, ["batch", 6, 8])
    chosen = helper.make_tensor_value_info("y", kind, ["batch", 4, 8])
    rng = np.random.default_rng(0)
    constants: dict[str, np.ndarray] = {
        "scale": rng.standard_normal(8, dtype=np.float32), "bias": rng.standard_normal(8, dtype=np.float32),
        "two": np.array([2]), "six": np.array([6]), "one": np.array([1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Add", ["x", "x"], ["sum"], "sum"),
        helper.make_node("LayerNormalization", ["sum", "scale", "bias"], ["normed"], "norm", axis=-1),
        helper.make_node("Slice", ["normed", "two", "six", "one", "one"], ["y"], "slice"),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "chosen", [tokens], [chosen], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    x = rng.standard_normal((2, 6, 8), dtype=np.float32)
    wanted = run(model, x=x)
    slice_before_norms(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Add", "Slice", "LayerNormalization"]
    np.testing.assert_allclose(run(model, x=x), wanted, atol=1e-6)
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    whole.graph.output.append(helper.make_tensor_value_info("normed", kind, ["batch", 6, 8]))
    slice_before_norms(whole)
    assert [node.op_type for node in whole.graph.node] == ["Add", "LayerNormalization", "Slice", "LayerNormalization"]
