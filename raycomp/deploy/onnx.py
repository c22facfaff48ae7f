"""Export a compressed model as an ONNX graph or a torch.export program, for batches of any size.

Models are traced and checked on the CPU in float32, whatever device they are on.

ONNX has no stable sort, which merging needs so that equal scores merge alike everywhere; its TopK breaks ties by the
lower index, which is the same.
"""

import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raycomp.devices import exact_float32
from raycomp.errors import UserError

try:
    import onnx
    import onnxruntime
    import onnxscript
except ImportError as missing:
    raise UserError(f"ONNX needs {missing.name}: pip install 'raycomp[onnx]'") from None

from raycomp.deploy.model import FACTS, ModelCard
from raycomp.files import written
from raycomp.models.segmenter import Segmenter

OPSET = 18
op: Any = onnxscript.opset18
TOLERANCE = 1e-4
"""Largest difference of a logit between torch and onnxruntime, float32."""
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_TRACED_BATCH = 2  # not 1, which tracing would take for a constant


def export_onnx(model: Segmenter, facts: ModelCard, path: Path, images: Tensor) -> float:
    """Write an ONNX graph, `images` (batch, 3, H, W) in and `logits` (batch, K, H, W) out, once it is checked.

    Args:
        images: normalised real images (B, 3, H, W) that onnxruntime must answer like torch.

    Returns:
        The largest difference of a logit.

    Raises:
        UserError: for adaptive merging, or for logits that differ by more than 1e-4.
    """
    model, images = _traceable(model), images.cpu()
    proto = graph(model, images)
    onnx.helper.set_model_props(proto, metadata(model, facts))
    session = open_session(proto.SerializeToString(), torch.device("cpu"))
    difference = compare(model, lambda x: session.run(None, {"images": x})[0], images)
    with written(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    return difference


def graph(model: Segmenter, images: Tensor) -> "onnx.ModelProto":
    """The ONNX graph of a model for batches of any size of images like `images` (B, 3, H, W); see `export_onnx`."""
    model = _traceable(model)
    example = images[:1].cpu().expand(_TRACED_BATCH, -1, -1, -1).contiguous()
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(StringIO()), torch.inference_mode():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
        )
    assert program is not None
    return program.model_proto


def check_device(device: torch.device) -> None:
    """Whether onnxruntime may run on a device.

    Raises:
        UserError: for CUDA that this onnxruntime was built without.
    """
    if device.type != "cpu" and _CUDA not in onnxruntime.get_available_providers():
        raise UserError(
            f"--device {device}: this onnxruntime runs on the CPU alone; install onnxruntime-gpu in its place, or give "
            "--device cpu"
        )


def open_session(source: bytes | str, device: torch.device, threads: int = 0) -> "onnxruntime.InferenceSession":
    """An onnxruntime session on a device; 0 threads are as many as there are cores.

    On CUDA, products of float32 use TF32 where torch's do.

    Raises:
        UserError: as `check_device`, or for CUDA whose libraries onnxruntime does not find.
    """
    check_device(device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if device.type == "cpu":
        return onnxruntime.InferenceSession(source, options, providers=[_CPU])
    index = torch.cuda.current_device() if device.index is None else device.index
    on = {"device_id": str(index), "use_tf32": str(int(torch.backends.cuda.matmul.allow_tf32))}
    session = onnxruntime.InferenceSession(source, options, providers=[(_CUDA, on), _CPU])
    if _CUDA not in session.get_providers():  # it goes on with the CPU, and only logs why
        raise UserError(
            f"--device {device}: onnxruntime {onnxruntime.__version__} does not find the CUDA and cuDNN that it was "
            f"built for (torch has CUDA {torch.version.cuda}); install an onnxruntime-gpu that fits, or give "
            "--device cpu"
        )
    return session


def run_bound(session: "onnxruntime.InferenceSession", images: Tensor) -> Tensor:
    """Logits (B, K, H, W) of images (B, 3, H, W) float32 on the session's device, where the logits are, too.

    Nothing is copied to the host: onnxruntime reads the images and writes the logits where torch holds them.
    """
    images = images.contiguous()
    logits = images.new_empty(len(images), *session.get_outputs()[0].shape[1:])
    binding, where = session.io_binding(), (images.device.type, images.device.index or 0, np.float32)
    binding.bind_input("images", *where, tuple(images.shape), images.data_ptr())
    binding.bind_output("logits", *where, tuple(logits.shape), logits.data_ptr())
    if images.is_cuda:  # onnxruntime has a stream of its own, and waits for that one only
        torch.cuda.current_stream(images.device).synchronize()
    session.run_with_iobinding(binding)
    return logits


def export_program(model: Segmenter, facts: ModelCard, path: Path, images: Tensor) -> float:
    """Write a torch.export program (.pt2), checked like `export_onnx`; its `facts` are an extra file of that name."""
    model, images = _traceable(model), images.cpu()
    example = images[:1].expand(_TRACED_BATCH, -1, -1, -1).contiguous()
    with torch.no_grad():
        program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        run = program.module()
        difference = compare(model, lambda x: run(torch.from_numpy(x)).numpy(), images)
    with written(path) as temporary:
        torch.export.save(program, temporary, extra_files=metadata(model, facts))
    return difference


def metadata(model: Segmenter, facts: ModelCard) -> dict[str, str]:
    """What a file says of itself."""
    return {
        FACTS: facts.model_dump_json(),
        "shape": model.shape.model_dump_json(),
        "recipe": model.recipe.canonical_json(),
    }


def compare(model: Segmenter, run: Callable[[np.ndarray], np.ndarray], images: Tensor) -> float:
    """The largest difference of a logit between a model and its export, at batch 1 and at all images.

    Args:
        model: in float32; on CUDA it runs without TF32, which alone would differ by more than `TOLERANCE`.
        images: (B, 3, H, W) on the model's device.

    Raises:
        UserError: where it is more than `TOLERANCE`.
    """
    with torch.inference_mode(), exact_float32():
        wanted = model(images).cpu().numpy()
    host = images.cpu().numpy()
    found = run(host), run(host[:1])
    differences = np.abs(found[0] - wanted).reshape(len(images), -1).max(axis=1)
    largest = max(float(differences.max()), float(np.abs(found[1] - wanted[:1]).max()))
    if not largest <= TOLERANCE:
        many = int((differences > TOLERANCE).sum())
        raise UserError(
            f"export: logits differ by {largest:.2g} from torch's, on {many} of {len(images)} images; at most "
            f"{TOLERANCE:g} is expected"
        )
    return largest


def _traceable(model: Segmenter) -> Segmenter:
    """The model on the CPU in float32: itself, or a copy."""
    if model.recipe.adaptive:
        raise UserError("export: merging that adapts to the image has no fixed graph; give settings of fixed counts")
    weights = {(p.device.type, p.dtype) for p in model.parameters()}
    return model if weights == {("cpu", torch.float32)} else deepcopy(model).to("cpu", torch.float32)


def _stable_sort(self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    del stable
    count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
    return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)
