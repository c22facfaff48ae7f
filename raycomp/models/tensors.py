# SPDX-License-Identifier: Apache-2.0
"""Read and write tensor files. The bytes, not the suffix, decide the format; weights must be finite.

Only tensors are read (`weights_only`, safetensors); a pickle that would run code is refused.
"""

import importlib
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from raycomp.errors import UserError, first_line, logger, nearest
from raycomp.files import written
from raycomp.storage import AnyPath

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # first bytes of torch checkpoints, since and before torch 1.6
_EXPORTS = {".onnx": "an ONNX graph", ".pt2": "a torch.export program"}
_EXPECTED = "weights in a .safetensors file, or in torch's .pth, .pt, .ckpt or .bin"
_WRAPPED = ("model", "state_dict")  # keys of the weights in training checkpoints


class _HistoryBuffer:
    """Stands for mmengine's class of logged numbers, which its checkpoints hold; its content is not used."""


def _harmless() -> list[Any]:
    """Return what checkpoints of mmengine hold besides tensors: logged numbers in numpy arrays."""
    multiarray: Any = importlib.import_module("numpy._core.multiarray")
    rebuilt = [(multiarray._reconstruct, "_reconstruct"), (multiarray.scalar, "scalar")]
    numbers = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")]
    return [
        (_HistoryBuffer, "mmengine.logging.history_buffer.HistoryBuffer"),
        *((function, f"numpy.{core}.multiarray.{name}") for function, name in rebuilt for core in ("core", "_core")),
        np.ndarray,
        np.dtype,
        *numbers,
    ]


def is_torch(path: Path) -> bool:
    """Return True for a torch checkpoint, False for safetensors.

    Raises:
        UserError: if the file is neither.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder; expected {_EXPECTED}")
    if path.suffix in _EXPORTS:
        raise UserError(f"{path}: {_EXPORTS[path.suffix]}, which `raycomp predict` runs; expected {_EXPECTED}")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        names = sorted(p.name for p in path.parent.glob(f"*{path.suffix}")) if path.suffix else []
        hint = f"; {nearest(path.name, names)}" if names else ""
        raise UserError(f"{path}: cannot be read ({error.strerror}){hint}") from None
    if head[4:] == b"\0\0\0\0{":  # JSON after its length; checked first, as the length may look like a pickle
        return False
    if head.startswith((_ZIP, _PICKLE)):
        return True
    fault = "the file is empty" if not head else "neither safetensors nor a torch checkpoint"
    raise UserError(f"{path}: {fault}; expected {_EXPECTED}")


def metadata(path: Path) -> dict[str, str]:
    """Read the header of a safetensors file; it is empty for a torch checkpoint."""
    if is_torch(path):
        return {}
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({first_line(error)})") from None


def read(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file by name; from a training checkpoint, those of the model.

    Raises:
        UserError: if the file cannot be read, or holds no dictionary of tensors.
    """
    if is_torch(path):
        return read_with_meta(path)[0]
    try:
        with safe_open(path, "pt") as file:
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({first_line(error)})") from None
    return checked(held, path)


def read_with_meta(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read all tensors of a file by name, and what a training checkpoint has beside them.

    Raises:
        UserError: as `read`.
    """
    if not is_torch(path):
        return read(path), {}
    data = unpickled(path)
    key = next((key for key in _WRAPPED if isinstance(data, dict) and key in data), None)
    if key is None:
        return checked(data, path), {}
    return checked(data[key], path), {str(name): held for name, held in data.items() if name != key}


def checked(held: object, path: Path) -> dict[str, Tensor]:
    """Check that a file's content is a dictionary of tensors by name.

    Raises:
        UserError: for anything else, and for sparse, quantised, complex or meta tensors.
    """
    if not isinstance(held, dict) or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in held.items()):
        raise UserError(f"{path}: has no {_WRAPPED[0]!r} dictionary of tensors")
    for name, tensor in held.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            what = "without data" if tensor.is_meta else f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
            raise UserError(f"{path}: tensor {name!r} is {what}; expected plain numbers")
    return held


def unpickled(path: Path) -> Any:
    """Read the content of a torch checkpoint."""
    try:
        # Given a path, torch would go by the suffix.
        with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.simplefilter("ignore")  # about old pickles
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kind = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({kind[1]})" if kind else ""
        raise UserError(
            f"{path}: refused: it holds Python objects{what} besides tensors, or is not a checkpoint; if you trust it, "
            f'keep its weights alone: python -c "import torch; '
            f"torch.save(torch.load('{path.name}', weights_only=False)['state_dict'], 'weights.pth')\""
        ) from None
    except Exception as error:  # torch raises many exception types on a damaged file
        logger.debug("reading %s", path, exc_info=True)
        raise UserError(f"{path}: not a readable checkpoint ({first_line(error)})") from None


def write(tensors: Mapping[str, Tensor], path: AnyPath, header: dict[str, str]) -> None:
    """Write tensors and a header as safetensors, atomically."""
    with written(path) as temporary:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, header)


def fill(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors into a module.

    Raises:
        UserError: if a tensor is missing, unexpected, of another shape, or not finite.
    """
    state = module.state_dict()
    for name in state:
        if name not in tensors:
            raise UserError(f"{path}: tensor {name!r} is missing; {nearest(name, tensors)}")
        if tensors[name].shape != state[name].shape:
            raise UserError(
                f"{path}: tensor {name!r} has shape {list(tensors[name].shape)}, the model {list(state[name].shape)}"
            )
    for name in tensors:
        if name not in state:
            raise UserError(f"{path}: unexpected tensor {name!r}; {nearest(name, state)}")
    cast = {name: tensor.to(state[name].dtype) for name, tensor in tensors.items()}
    for name, tensor in cast.items():
        if broken := int((~tensor.isfinite()).sum()):
            raise UserError(
                f"{path}: tensor {name!r} is not finite: {broken} of {tensor.numel()} values are NaN or infinite"
            )
    if any(parameter.is_meta for parameter in module.parameters()):
        module.to_empty(device="cpu")
    module.load_state_dict(cast)
