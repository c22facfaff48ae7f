# SPDX-License-Identifier: Apache-2.0
"""FP16 and INT8 graphs: what is converted, what stays in float32, and how far they are from float32."""

import importlib
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper, shape_inference

from raycomp.deploy import model as models
from raycomp.deploy.onnx import checked_graph, metadata, open_session, write_graph
from raycomp.deploy.precision import kept_in_float32, linear_maps, to_fp16, to_int8
from raycomp.errors import UserError
from raycomp.merging import ToMe
from raycomp.recipe import dense
from tests.conftest import TINY, seeded_images, seeded_model
from tests.helpers.deploy import CLASSES, DATA, compressed
from tests.helpers.onnx_graphs import identity

IMAGES, CALIBRATION = seeded_images(TINY, 6), seeded_images(TINY, 8, seed=1)
CPU = torch.device("cpu")
pytestmark = pytest.mark.slow  # a graph takes seconds to trace; all tests share one


@pytest.fixture(scope="module")
def merging():
    """A model that merges in every block, so that attention adds the logarithm of token sizes."""
    model = seeded_model(TINY)
    recipe = dense(TINY).model_copy(update={"merge": ToMe(ratios=(0.2,) * TINY.depth)})
    model.recipe, model.encoder.merger = recipe, recipe.merge
    return model


@pytest.fixture(scope="module")
def traced(merging):
    return checked_graph(merging, IMAGES)[0]


@pytest.fixture(scope="module")
def half(traced):
    return to_fp16(traced)


@pytest.fixture(scope="module")
def quantised(traced):
    return to_int8(traced, CALIBRATION.numpy())


def run(graph, images, *outputs):
    """The logits of a graph, or other tensors of it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in outputs)
    session = open_session(copy.SerializeToString(), CPU)
    return session.run(list(outputs) or None, {"images": images.numpy()})


def types(graph):
    """The type of every tensor."""
    inferred = shape_inference.infer_shapes(graph, strict_mode=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    named = {value.name: value.type.tensor_type.elem_type for value in values}
    return named | {weight.name: weight.data_type for weight in inferred.initializer}


def test_what_decides_on_merges_and_probabilities_stays_in_float32(traced, half):
    kind, kept = types(half), set(kept_in_float32(traced))
    originals = {node.name: node for node in traced.graph.node}
    assert {originals[name].op_type for name in kept} >= {"TopK", "ArgMax", "ReduceMax", "MatMul", "Log", "Div"}
    fragile = {"Softmax", "LayerNormalization", "Log", "ReduceL2", "ReduceMean"}
    seen = set()
    for node in half.graph.node:
        if node.name in kept or node.op_type in fragile:
            assert TensorProto.FLOAT16 not in {kind.get(name) for name in (*node.input, *node.output)}, node.name
            seen.add(node.op_type)
    assert seen >= fragile | {"TopK", "MatMul"}


def test_nothing_in_float32_is_rounded_on_its_way(half):
    """The converter alone casts every tensor between two operators in float32 to float16 and back."""
    casts = {node.output[0]: node for node in half.graph.node if node.op_type == "Cast"}
    halves = {name for name, node in casts.items() if node.attribute[0].i == TensorProto.FLOAT16}
    back = [node.input[0] for node in casts.values() if node.attribute[0].i == TensorProto.FLOAT]
    assert halves
    assert not halves & set(back)
    moves = {"Reshape", "Transpose", "Identity", "Unsqueeze", "Squeeze"}  # as between a merge and the next norm
    assert not [node.name for node in half.graph.node if node.op_type in moves and node.input[0] in halves]
    kind = types(half)
    [images], [logits] = half.graph.input, half.graph.output
    assert (kind[images.name], kind[logits.name]) == (TensorProto.FLOAT, TensorProto.FLOAT)
    assert logits.name not in {node.output[0] for node in casts.values() if node.input[0] in halves}


def test_linear_maps_convolutions_and_attention_are_in_float16(merging, traced, half):
    kind, maps = types(half), set(linear_maps(traced))
    layers = [module for module in merging.modules() if isinstance(module, torch.nn.Linear)]
    kept = kept_in_float32(traced)
    products = [node for node in half.graph.node if node.op_type == "MatMul" and node.name not in kept]
    assert len(maps) == len(layers) + 2  # and the projections of the mask decoder, which are parameters
    assert len(products) == len(maps) + 2 * (TINY.depth + 1) + 1  # and attention, and patches times classes
    assert maps < {node.name for node in products}
    for node in (*products, *(node for node in half.graph.node if node.op_type == "Conv")):
        assert {kind[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT16}, node.name
    onnx.checker.check_model(half, full_check=True)


def test_float16_rounds_and_no_more(traced, half):
    """Rounding weights to 11 bits alone changes the logits as much."""
    wanted, [found] = run(traced, IMAGES)[0], run(half, IMAGES)
    rounded = onnx.ModelProto()
    rounded.CopyFrom(traced)
    for weight in rounded.graph.initializer:
        if weight.data_type == TensorProto.FLOAT and len(weight.dims) > 1:
            values = numpy_helper.to_array(weight).astype(np.float16).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    by_weights = np.abs(run(rounded, IMAGES)[0] - wanted).mean()
    assert 0 < np.abs(found - wanted).mean() < 8 * by_weights
    assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.99


def test_no_operator_is_missing_in_older_runtimes(traced):
    """onnxruntime 1.20 to 1.24 sort floats and integers of 32 and 64 bits, and no bytes."""
    kind = types(traced)
    sorted_types = {kind[node.input[0]] for node in traced.graph.node if node.op_type == "TopK"}
    assert TensorProto.FLOAT in sorted_types
    assert sorted_types <= {TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64}


def test_linear_maps_alone_are_quantised(traced, quantised):
    maps, nodes = set(linear_maps(traced)), quantised.graph.node
    restored = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    assert {node.name for node in nodes if set(node.input) & restored} == maps
    assert all(set(node.input[:2]) <= restored for node in nodes if node.name in maps)
    kinds = {node.op_type for node in traced.graph.node}
    assert {node.op_type for node in nodes} - kinds == {"QuantizeLinear", "DequantizeLinear"}
    assert {one.domain for one in quantised.opset_import} == {""}
    onnx.checker.check_model(quantised, full_check=True)


def test_a_quantised_map_computes_what_the_textbook_says(traced, quantised):
    """Of the first MLP, in float64: ranges of the calibration images, 7-bit weights per channel, exact sums."""
    weights = {weight.name: numpy_helper.to_array(weight) for weight in quantised.graph.initializer}
    floats = {weight.name: numpy_helper.to_array(weight) for weight in traced.graph.initializer}
    original = next(node for node in traced.graph.node if node.name == linear_maps(traced)[2])
    node = next(node for node in quantised.graph.node if node.name == original.name)
    by_output = {one.output[0]: one for one in quantised.graph.node}
    of_input, of_weight = by_output[node.input[0]], by_output[node.input[1]]
    x_scale, x_zero = (weights[name].astype(np.float64) for name in of_input.input[1:])
    w, w_scale, w_zero = (weights[name].astype(np.float64) for name in of_weight.input)
    assert not w_zero.any()
    wanted_w = floats[original.input[1]].astype(np.float64)
    np.testing.assert_allclose(w_scale, 2 * np.abs(wanted_w).max(0) / 128, rtol=1e-6)
    assert np.array_equal(w, np.clip(np.rint(wanted_w / w_scale), -64, 64))
    seen = np.concatenate([run(traced, image[None], original.input[0])[0] for image in CALIBRATION])
    low, high = min(seen.min(), 0), max(seen.max(), 0)
    assert x_scale == pytest.approx((high - low) / 255, rel=1e-6)
    x, found = run(quantised, IMAGES, by_output[of_input.input[0]].input[0], node.output[0])
    levels = np.clip(np.rint(x.astype(np.float64) / x_scale) + x_zero, 0, 255)
    np.testing.assert_allclose(found, (levels - x_zero) * x_scale @ (w * w_scale), rtol=1e-5, atol=1e-5)
    assert np.abs(found - x @ wanted_w).max() > 1e-4  # so it is not float32 by another name


def test_int8_is_near_float32(traced, quantised):
    wanted, [found] = run(traced, IMAGES)[0], run(quantised, IMAGES)
    assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.9
    assert np.abs(found - wanted).mean() < 0.2 * wanted.std()


@pytest.mark.parametrize("kind", ["half", "quantised"])
def test_a_batch_may_have_any_size(kind, request):
    graph = request.getfixturevalue(kind)
    [together] = run(graph, IMAGES[:3])
    for index in range(3):
        np.testing.assert_allclose(run(graph, IMAGES[index : index + 1])[0][0], together[index], atol=1e-4)


def test_a_policy_network_stays_in_float32(model, saliency):
    graph = checked_graph(compressed(model, saliency, "cts"), IMAGES)[0]
    policy = {node.name for node in graph.graph.node if any("encoder.sharer" in p.value for p in node.metadata_props)}
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv" and node.name in policy]
    assert convolutions
    assert policy <= set(kept_in_float32(graph))
    half = to_fp16(graph)
    wanted, [found] = run(graph, IMAGES)[0], run(half, IMAGES)
    assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.99


def test_what_cannot_be_converted_is_one_line(traced, tmp_path):
    identity(tmp_path / "same.onnx")
    for convert in (to_fp16, lambda graph: to_int8(graph, CALIBRATION.numpy())):
        with pytest.raises(UserError, match="the ONNX graph does not name its modules"):
            convert(onnx.load(tmp_path / "same.onnx"))
    with pytest.raises(UserError, match=r"^int8: no calibration image; ranges of activations need at least one"):
        to_int8(traced, CALIBRATION.numpy()[:0])
    old = onnx.ModelProto()
    old.CopyFrom(traced)
    old.opset_import[0].version = 11
    with pytest.raises(UserError, match=r"^int8: the graph has opset 11; scales per channel need 13 or newer$"):
        to_int8(old, CALIBRATION.numpy())


def test_a_missing_package_is_named(monkeypatch):
    from raycomp.deploy import precision

    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    with pytest.raises(
        UserError, match=r"^--precision needs onnxruntime\.quantization: pip install 'raycomp\[onnx\]'$"
    ):
        importlib.reload(precision)
    monkeypatch.undo()
    importlib.reload(precision)


def test_a_file_has_no_paths_of_the_machine(merging, traced, tmp_path):
    copy = onnx.ModelProto()
    copy.CopyFrom(traced)
    write_graph(copy, tmp_path / "made.onnx", metadata(merging, models.card_of(merging, DATA, CLASSES)))
    content = (tmp_path / "made.onnx").read_bytes()
    assert b"segmenter.py" in traced.SerializeToString()
    assert b"segmenter.py" not in content
    held = onnxruntime.InferenceSession(content).get_modelmeta().custom_metadata_map
    assert held.keys() == {"facts", "shape", "recipe"}
