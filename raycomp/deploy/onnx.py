# SPDX-License-Identifier: Apache-2.0
"""Export a compressed model as an ONNX graph or a torch.export program, for batches of any size.

Models are traced and checked on the CPU in float32, whatever their device.
"""

import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raycomp.devices import exact_float32
from raycomp.errors import UserError, first_line, logger

try:
    import onnx
    import onnxruntime
except ImportError as missing:
    raise UserError(f"ONNX needs {missing.name}: pip install 'raycomp[onnx]'") from None

from raycomp.deploy.model import CARD_FIELD, ModelCard
from raycomp.deploy.onnx_operators import slice_before_norms, translations, upsample_by_products
from raycomp.files import written
from raycomp.models.segmenter import Segmenter

OPSET = 18
RUNTIME = f"onnxruntime {onnxruntime.__version__}"
TOLERANCE = 1e-4
"""Maximum difference between logits of torch and onnxruntime, float32."""
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_TRACED_BATCH = 2  # not 1, which tracing would treat as a constant


def export_onnx(model: Segmenter, card: ModelCard, path: Path, images: Tensor) -> float:
    """Check and write an ONNX graph from `images` (batch, 3, H, W) to `logits` (batch, K, H, W).

    Args:
        images: normalised real images (B, 3, H, W), on which onnxruntime must agree with torch.

    Returns:
        The maximum difference between logits.

    Raises:
        UserError: for adaptive merging, or if logits differ by more than 1e-4.
    """
    proto, difference = checked_graph(model, images)
    write_graph(proto, path, metadata(model, card))
    return difference


def checked_graph(model: Segmenter, images: Tensor) -> tuple["onnx.ModelProto", float]:
    """Return the graph that `export_onnx` checks and writes, and the maximum difference between logits."""
    model, images = _traceable(model), images.cpu()
    proto = graph(model, images)
    session = open_session(proto.SerializeToString(), torch.device("cpu"))
    return proto, compare(model, lambda x: session.run(None, {"images": x})[0], images)


def write_graph(proto: "onnx.ModelProto", path: Path, fields: Mapping[str, str]) -> None:
    """Write a graph atomically, with metadata fields, and without the stack traces that the exporter leaves."""
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.initializer):
        del part.metadata_props[:]
    onnx.helper.set_model_props(proto, dict(fields))
    with written(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())


def graph(model: Segmenter, images: Tensor) -> "onnx.ModelProto":
    """Return the ONNX graph of a model, for any batch of images shaped like `images` (B, 3, H, W)."""
    model = _traceable(model)
    example = images[:1].cpu().expand(_TRACED_BATCH, -1, -1, -1).contiguous()
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(StringIO()), torch.inference_mode():
        warnings.simplefilter("ignore")  # about the exporter itself
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            custom_translation_table=translations(),
        )
    assert program is not None
    made = program.model_proto
    slice_before_norms(made)
    upsample_by_products(made)
    return made


def check_device(device: torch.device) -> None:
    """Check that onnxruntime can run on a device.

    Raises:
        UserError: for CUDA, if this onnxruntime was built without it.
    """
    if device.type != "cpu" and _CUDA not in onnxruntime.get_available_providers():
        raise UserError(
            f"--device {device}: this onnxruntime runs only on the CPU; install onnxruntime-gpu instead, or pass "
            "--device cpu"
        )


def open_session(source: bytes | str, device: torch.device, threads: int = 0) -> "onnxruntime.InferenceSession":
    """Open an onnxruntime session on a device; 0 threads means one per core.

    On CUDA, float32 products use TF32 if torch uses it.

    Raises:
        UserError: as `check_device`, or if onnxruntime does not find its CUDA libraries.
    """
    check_device(device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if device.type == "cpu":
        return onnxruntime.InferenceSession(source, options, providers=[_CPU])
    index = torch.cuda.current_device() if device.index is None else device.index
    on = {"device_id": str(index), "use_tf32": str(int(torch.backends.cuda.matmul.allow_tf32))}
    session = onnxruntime.InferenceSession(source, options, providers=[(_CUDA, on), _CPU])
    if _CUDA not in session.get_providers():  # onnxruntime falls back to the CPU and only logs why
        raise UserError(
            f"--device {device}: onnxruntime {onnxruntime.__version__} does not find the CUDA and cuDNN that it was "
            f"built for (torch has CUDA {torch.version.cuda}); install a matching onnxruntime-gpu, or pass --device cpu"
        )
    return session


def read_session(path: Path, device: torch.device, threads: int = 0) -> "onnxruntime.InferenceSession":
    """Open a session of a file; see `open_session`.

    Raises:
        UserError: as `open_session`, or if the file is no ONNX graph that this onnxruntime runs.
    """
    try:
        return open_session(str(path), device, threads)
    except UserError:
        raise
    except Exception as error:  # onnxruntime raises its own exceptions
        logger.debug("reading %s", path, exc_info=True)
        raise UserError(f"{path}: not a readable ONNX graph ({first_line(error)})") from None


def run_bound(session: "onnxruntime.InferenceSession", images: Tensor) -> Tensor:
    """Compute logits (B, K, H, W) of images (B, 3, H, W) float32; both are on the session's device.

    Nothing is copied to the host: onnxruntime reads and writes torch's memory.
    """
    images = images.contiguous()
    logits = images.new_empty(len(images), *session.get_outputs()[0].shape[1:])
    binding, where = session.io_binding(), (images.device.type, images.device.index or 0, np.float32)
    binding.bind_input("images", *where, tuple(images.shape), images.data_ptr())
    binding.bind_output("logits", *where, tuple(logits.shape), logits.data_ptr())
    if images.is_cuda:  # onnxruntime waits only for its own stream
        torch.cuda.current_stream(images.device).synchronize()
    session.run_with_iobinding(binding)
    return logits


def export_program(model: Segmenter, card: ModelCard, path: Path, images: Tensor) -> float:
    """Check and write a torch.export program (.pt2) as `export_onnx` does; metadata fields are extra files."""
    model, images = _traceable(model), images.cpu()
    example = images[:1].expand(_TRACED_BATCH, -1, -1, -1).contiguous()
    with torch.no_grad():
        program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        run = program.module()
        difference = compare(model, lambda x: run(torch.from_numpy(x)).numpy(), images)
    with written(path) as temporary:
        torch.export.save(program, temporary, extra_files=metadata(model, card))
    return difference


def metadata(model: Segmenter, card: ModelCard) -> dict[str, str]:
    """Return the metadata of an exported file."""
    return {
        CARD_FIELD: card.model_dump_json(),
        "shape": model.shape.model_dump_json(),
        "recipe": model.recipe.canonical_json(),
    }


def compare(model: Segmenter, run: Callable[[np.ndarray], np.ndarray], images: Tensor) -> float:
    """Return the maximum difference between logits of a model and its export, over batches of one and of all images.

    Args:
        model: in float32; on CUDA it runs without TF32, which alone would exceed `TOLERANCE`.
        images: (B, 3, H, W), on the model's device.

    Raises:
        UserError: if the difference exceeds `TOLERANCE`.
    """
    with torch.inference_mode(), exact_float32():
        expected = model(images).cpu().numpy()
    host = images.cpu().numpy()
    together, alone = run(host), run(host[:1])
    differences = np.abs(together - expected).reshape(len(images), -1).max(axis=1)
    largest = max(float(differences.max()), float(np.abs(alone - expected[:1]).max()))
    if not largest <= TOLERANCE:
        many = int((differences > TOLERANCE).sum())
        raise UserError(
            f"export: logits differ from torch's by {largest:.2g}, on {many} of {len(images)} images; at most "
            f"{TOLERANCE:g} is allowed"
        )
    return largest


def _traceable(model: Segmenter) -> Segmenter:
    """Return the model on the CPU in float32: itself, or a copy."""
    if model.recipe.adaptive:
        raise UserError("export: adaptive merging has no fixed graph; use settings with fixed counts")
    weights = {(p.device.type, p.dtype) for p in model.parameters()}
    return model if weights == {("cpu", torch.float32)} else deepcopy(model).to("cpu", torch.float32)
