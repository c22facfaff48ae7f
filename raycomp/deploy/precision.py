# SPDX-License-Identifier: Apache-2.0
"""Convert an exported ONNX graph to FP16 or INT8; what low precision would spoil stays in float32.

Kept in float32 by both: softmax, norms, and all that runs between the modules of a model, where tokens merge
(normalised keys, similarities, TopK, token sizes and their logarithm), residuals add up and scores are upsampled. So
is the policy network of CTS, whose scores decide what merges. Images and logits stay float32, too.

FP16 computes the other operators of modules in float16: linear maps, convolutions, activations, and the products of
attention. INT8 quantises linear maps alone, as QuantizeLinear and DequantizeLinear pairs: attention's products and the
patch embedding gain no time in INT8 (docs/results/speed.md).
"""

import ast
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from raycomp.errors import UserError

try:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
except ImportError as missing:
    raise UserError(f"--precision needs {missing.name}: pip install 'raycomp[onnx]'") from None

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Node metadata of torch's exporter: the modules that a node belongs to, outermost first, then the node itself."""
_POLICY = "encoder.sharer"
_FLOAT32_OPS = (
    *DEFAULT_OP_BLOCK_LIST, "Softmax", "LogSoftmax", "LayerNormalization", "BatchNormalization",
    "InstanceNormalization", "GroupNormalization", "ReduceL2", "ReduceMean", "Clip", "Log", "Resize",
)  # fmt: skip
_MOVES = ("Reshape", "Transpose", "Identity", "Unsqueeze", "Squeeze")
"""Operators that move values unchanged; they take the precision of the node before them."""
_PER_CHANNEL_OPSET = 13
_LINEAR = ["MatMul", "Gemm"]


def to_fp16(graph: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return a graph that computes linear maps, convolutions and activations in float16.

    onnxruntime's converter has all that onnxconverter-common's has, clips no weight above 1e4, and needs no package
    besides onnxruntime.

    Raises:
        UserError: if the graph does not name its modules.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    weights = {weight.name for weight in copy.graph.initializer}
    inferred = [value for value in copy.graph.value_info if value.name not in weights]  # weights get no casts then
    del copy.graph.value_info[:]
    copy.graph.value_info.extend(inferred)
    half = convert_float_to_float16(
        copy, keep_io_types=True, op_block_list=_FLOAT32_OPS, node_block_list=kept_in_float32(graph)
    )
    _drop_casts(half)
    return half


def to_int8(graph: "onnx.ModelProto", images: np.ndarray) -> "onnx.ModelProto":
    """Return a graph whose linear maps multiply 8-bit integers, with ranges calibrated on images.

    Weights are signed, symmetric, with a scale per output channel and 7 bits: 8-bit products saturate on CPUs without
    VNNI. Inputs are unsigned, between the least and the largest value seen. Outputs are not quantised, so onnxruntime
    runs a map as one MatMulIntegerToFloat.

    Args:
        images: normalised images (n, 3, H, W) float32 from the training split.

    Raises:
        UserError: without images, if the opset has no scales per channel, or if the graph does not name its modules.
    """
    opset = max((one.version for one in graph.opset_import if one.domain in ("", "ai.onnx")), default=0)
    if opset < _PER_CHANNEL_OPSET:
        raise UserError(f"int8: the graph has opset {opset}; scales per channel need {_PER_CHANNEL_OPSET} or newer")
    if not len(images):
        raise UserError("int8: no calibration image; ranges of activations need at least one of the training split")
    return quantised(graph, images, linear_maps(graph))


def quantised(graph: "onnx.ModelProto", images: np.ndarray, nodes: Sequence[str], **changed: Any) -> "onnx.ModelProto":
    """Return a graph with quantised nodes; `changed` are arguments of `quantize_static` other than `to_int8`'s."""
    options = {
        "op_types_to_quantize": _LINEAR,
        "per_channel": True,
        "reduce_range": True,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "extra_options": {"OpTypesToExcludeOutputQuantization": _LINEAR},
    }
    with TemporaryDirectory(prefix="raycomp-") as scratch, redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, about its own casts
        source, inferred, made = (Path(scratch) / f"{name}.onnx" for name in ("source", "inferred", "made"))
        onnx.save(graph, source)  # onnxruntime 1.20 fails on a graph in memory
        quant_pre_process(source, inferred, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(inferred, made, _Images(images), nodes_to_quantize=list(nodes), **(options | changed))
        return onnx.load(made)


def linear_maps(graph: "onnx.ModelProto") -> list[str]:
    """Return the names of the nodes that multiply by a weight matrix, except those of a policy network."""
    kept = set(kept_in_float32(graph))
    matrices = {weight.name for weight in graph.graph.initializer if len(weight.dims) == 2}
    nodes = (node for node in graph.graph.node if node.op_type in _LINEAR and node.input[1] in matrices)
    return [node.name for node in nodes if node.name not in kept]


def kept_in_float32(graph: "onnx.ModelProto") -> list[str]:
    """Return the names of the nodes that run between modules, where tokens merge, or in a policy network.

    Raises:
        UserError: if the graph does not name its modules.
    """
    kept, of_output = list[str](), dict[str, list[str]]()
    for node in graph.graph.node:
        names = next((held.value for held in node.metadata_props if held.key == _SCOPES), None)
        if names is None or node.op_type in _MOVES:  # the exporter's optimiser fuses reshapes across modules
            modules = of_output.get(node.input[0], []) if node.input else []
        else:
            modules = [name for name in ast.literal_eval(names)[:-1] if name]  # the first is '', the model
        of_output |= dict.fromkeys(node.output, modules)
        if not modules or modules[0].startswith(_POLICY):
            kept.append(node.name)
    if not any(of_output.values()):
        raise UserError("the ONNX graph does not name its modules; export it with torch 2.6 or newer")
    return kept


def _drop_casts(graph: "onnx.ModelProto") -> None:
    """Remove the casts to float16 and back that the converter leaves between two operators in float32, and sort nodes.

    They would round, for example, the similarities of tokens before TopK ranks them.
    """
    nodes = graph.graph.node
    producers = {name: node for node in nodes for name in node.output}
    sources = dict[str, str]()
    for node in nodes:
        before = producers.get(node.input[0]) if _casts(node, onnx.TensorProto.FLOAT) else None
        if before is not None and _casts(before, onnx.TensorProto.FLOAT16):
            node.input[0] = sources[node.output[0]] = before.input[0]
    for node in nodes:
        for index, name in enumerate(node.input):
            if name in sources:
                node.input[index] = sources[name]
    ONNXModel(graph).topological_sort()
    nodes = graph.graph.node  # the sort replaces them
    used = Counter(name for node in nodes for name in node.input) + Counter(out.name for out in graph.graph.output)
    kept = list[onnx.NodeProto]()
    for node in reversed(nodes):
        if any(used[name] for name in node.output):
            kept.append(node)
        else:
            used.subtract(node.input)
    del nodes[:]
    nodes.extend(reversed(kept))


def _casts(node: "onnx.NodeProto", to: int) -> bool:
    return node.op_type == "Cast" and any(held.name == "to" and held.i == to for held in node.attribute)


class _Images(CalibrationDataReader):  # type: ignore[misc]
    """Feeds calibration images one by one."""

    def __init__(self, images: np.ndarray) -> None:
        self._batches = iter(images[:, None])

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}
