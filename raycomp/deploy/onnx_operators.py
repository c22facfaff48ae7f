# SPDX-License-Identifier: Apache-2.0
"""Write operators into ONNX graphs in the forms that onnxruntime runs fastest; all are standard operators of opset 18.

What each form gains is in docs/results/speed.md.
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from raycomp.errors import UserError

try:
    import onnx
    import onnxscript
    from onnx import numpy_helper
except ImportError as missing:
    raise UserError(f"ONNX needs {missing.name}: pip install 'raycomp[onnx]'") from None

op: Any = onnxscript.opset18
_LARGEST_GRID = 32
"""Side, patches; on larger grids, multiplying by an interpolation matrix, mostly zeros, takes longer than Resize."""


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the functions that write some of torch's operators, for torch's exporter."""
    aten = torch.ops.aten
    return {
        aten.sort.stable: _stable_sort,
        aten.gelu.default: _gelu,
        aten.scaled_dot_product_attention.default: _attention,
    }


def _stable_sort(self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """Sort by TopK, in which ties go to the lower index; ONNX has no sort."""
    del stable
    count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
    return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)


def _gelu(self: Any, approximate: str = "none") -> Any:
    """Multiply in the order for which onnxruntime has one operator, with the bias before it."""
    if approximate == "tanh":
        cubic = op.Add(op.Mul(op.Mul(self, _number(0.044715)), self), _number(1.0))
        bent = op.Tanh(op.Mul(cubic, op.Mul(self, _number(math.sqrt(2 / math.pi)))))
    else:
        bent = op.Erf(op.Div(self, _number(math.sqrt(2))))
    return op.Mul(op.Mul(self, _number(0.5)), op.Add(bent, _number(1.0)))


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attend with (B, H, N, width) queries, keys and values; `attn_mask` is added to the scores.

    The exporter's own form transposes keys in three dimensions, through shapes that it computes in every run.
    """
    assert scale is not None
    assert not dropout_p
    assert not is_causal
    assert not enable_gqa
    # The exporter joins both transpositions, and the one before them, into one.
    turned = op.Transpose(op.Transpose(key, perm=[0, 2, 1, 3]), perm=[0, 2, 3, 1])
    scores = op.MatMul(op.Mul(query, _number(scale)), turned)
    if attn_mask is not None:
        scores = op.Add(scores, attn_mask)
    return op.MatMul(op.Softmax(scores, axis=-1), value)


def _number(value: float) -> Any:
    return op.Constant(value_float=float(value))


def upsample_by_products(model: "onnx.ModelProto") -> None:
    """Upsample scores (B, K, h, w) to logits by two products with interpolation matrices, in place of a last Resize.

    Only what Resize computes bilinearly from a grid of at most 32 x 32.
    """
    graph = model.graph
    logits, weights = graph.output[0], {one.name: one for one in graph.initializer}
    last = next((node for node in graph.node if node.output[0] == logits.name), None)
    if last is None or last.op_type != "Resize" or len(last.input) != 3 or last.input[2] not in weights:
        return
    held = {one.name: onnx.helper.get_attribute_value(one) for one in last.attribute}
    scales = numpy_helper.to_array(weights[last.input[2]])[2:]
    sides = [dim.dim_value for dim in logits.type.tensor_type.shape.dim[2:]]
    grid = [round(side / scale) for side, scale in zip(sides, scales, strict=True)]
    bilinear = (held["mode"], held["coordinate_transformation_mode"]) == (b"linear", b"half_pixel")
    if not bilinear or not np.array_equal(grid * scales, sides) or max(grid) > _LARGEST_GRID:
        return
    down, across = (_interpolation(n, side) for n, side in zip(grid, sides, strict=True))
    wide = f"{logits.name}_wide"
    matrices = {f"{logits.name}_down": down, f"{logits.name}_across": across.T.copy()}
    left, right = matrices
    graph.initializer.extend(numpy_helper.from_array(matrix, name) for name, matrix in matrices.items())
    products = [([last.input[0], right], wide), ([left, wide], logits.name)]
    graph.node.remove(last)
    if not any(last.input[2] in node.input for node in graph.node):
        graph.initializer.remove(weights[last.input[2]])
    for inputs, output in products:
        node = onnx.helper.make_node("MatMul", inputs, [output], f"node_{output}")
        node.metadata_props.extend(last.metadata_props)
        graph.node.append(node)


def _interpolation(inputs: int, outputs: int) -> np.ndarray:
    """Return the matrix (outputs, inputs) of bilinear upsampling along one axis."""
    return F.interpolate(torch.eye(inputs)[:, None], outputs, mode="linear")[:, 0].T.contiguous().numpy()


def slice_before_norms(model: "onnx.ModelProto") -> None:
    """Choose among tokens (B, N, E) before they are normalised, not after.

    So fewer are normalised, and onnxruntime does not fuse the norm with the sum before it into an operator that takes
    several times as long as both.
    """
    graph = model.graph
    norms = {node.output[0]: node for node in graph.node if node.op_type == "LayerNormalization"}
    axes = {one.name for one in graph.initializer if _is_one(one)}
    nodes = list[onnx.NodeProto]()
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Slice" and node.input[0] in norms and len(node.input) > 3 and node.input[3] in axes:
            norm, chosen = onnx.NodeProto(), f"{node.output[0]}_chosen"
            norm.CopyFrom(norms[node.input[0]])
            norm.name, norm.input[0], norm.output[0] = f"{norm.name}_{node.name}", chosen, node.output[0]
            node.input[0], node.output[0] = norms[node.input[0]].input[0], chosen
            nodes.append(norm)
    used = Counter(name for node in nodes for name in node.input) + Counter(one.name for one in graph.output)
    copies = onnx.GraphProto()
    copies.node.extend(node for node in nodes if node.op_type != "LayerNormalization" or used[node.output[0]])
    graph.ClearField("node")
    graph.node.extend(copies.node)


def _is_one(tensor: "onnx.TensorProto") -> bool:
    """Return whether a tensor is [1], the axis of tokens."""
    return list(tensor.dims) == [1] and numpy_helper.to_array(tensor).tolist() == [1]
