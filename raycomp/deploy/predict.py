"""Segment images with an exported model, as a search space would: resized, normalised, window by window."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raycomp.data.images import IMAGES, listed, read_image
from raycomp.data.resize import resized_image
from raycomp.deploy import model as models
from raycomp.deploy.model import FACTS, Facts
from raycomp.errors import UserError, nearest
from raycomp.evaluate.miou import labels_at, normalised, sliding_logits
from raycomp.files import written
from raycomp.shape import Scale

Run = Callable[[Tensor], Tensor]
"""Normalised images (B, 3, H, W) to logits (B, K, H, W)."""


def open_model(path: Path, device: torch.device) -> tuple[Run, Facts]:
    """An exported model by its suffix: `.safetensors` or `.pt2` run by torch, `.onnx` by onnxruntime.

    Raises:
        UserError: for a file that is missing, or is not an export of ours.
    """
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*") if p.suffix in (".safetensors", ".onnx", ".pt2"))
        hint = nearest(path.name, there) if there else f"there is none in {path.parent}"
        raise UserError(f"no model {path}; {hint}")
    if path.suffix == ".onnx":
        return _open_onnx(path)
    if path.suffix == ".pt2":
        held = {FACTS: ""}
        program = torch.export.load(path, extra_files=held)
        return program.module().to(device), _facts(held[FACTS], path)
    network = models.load(path).to(device)
    facts = models.read_facts(path)
    if facts is None:
        raise UserError(f"{path}: field {FACTS!r} is missing: not written by `raycomp export`")
    return network, facts


def _open_onnx(path: Path) -> tuple[Run, Facts]:
    from raycomp.deploy.onnx import open_session

    try:
        session = open_session(str(path))
    except Exception as error:  # onnxruntime raises kinds of its own
        raise UserError(f"{path}: not a readable ONNX graph ({str(error).splitlines()[0]})") from None
    facts = _facts(session.get_modelmeta().custom_metadata_map.get(FACTS, ""), path)
    return lambda x: torch.from_numpy(session.run(None, {"images": x.cpu().numpy()})[0]), facts


def _facts(text: str | bytes, path: Path) -> Facts:
    if not text:
        raise UserError(f"{path}: field {FACTS!r} is missing: not written by `raycomp export`")
    return Facts.model_validate_json(text)


def image_files(path: Path) -> list[Path]:
    """An image, or all images of a folder, by name.

    Raises:
        UserError: where there is none.
    """
    if path.is_dir():
        found = listed(path, IMAGES)
        if not found:
            raise UserError(f"{path}: no image in this folder; allowed: {', '.join(IMAGES)}")
        return found
    if not path.is_file():
        raise UserError(f"{path}: no such image or folder")
    return [path]


def predict(
    run: Run, facts: Facts, files: list[Path], device: torch.device
) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
    """Segment images one by one.

    Yields:
        The file, its image (H, W, 3) uint8, and the class of each of its pixels (H, W) uint8.
    """
    for path in files:
        image = read_image(path)
        size = (image.shape[0], image.shape[1])
        seen = resized_image(image, Scale(facts.short_side, facts.long_side).of(size))
        x = normalised(torch.from_numpy(seen)[None].to(device), facts.mean, facts.std, torch.float32)
        with torch.inference_mode():
            labels = labels_at(sliding_logits(run, x, facts.window, facts.stride), size)
        yield path, image, labels[0].cpu().numpy().astype(np.uint8)


def write_labels(predicted: np.ndarray, path: Path) -> None:
    """Class indices (H, W) as a grey PNG, whole or not at all."""
    with written(path) as temporary:
        Image.fromarray(predicted).save(temporary)
