# SPDX-License-Identifier: Apache-2.0
"""ONNX graphs that no exporter made."""

import onnx


def identity(path) -> None:
    """A graph whose logits are its images."""
    size: list[str | int | None] = ["batch", 3, 4, 4]
    kind = onnx.TensorProto.FLOAT
    images, logits = (onnx.helper.make_tensor_value_info(name, kind, size) for name in ("images", "logits"))
    node = onnx.helper.make_node("Identity", ["images"], ["logits"])
    graph = onnx.helper.make_graph([node], "same", [images], [logits])
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(made, path)
