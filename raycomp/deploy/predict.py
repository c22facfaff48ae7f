# SPDX-License-Identifier: Apache-2.0
"""Segment images with an exported model as in evaluation: resized, normalised, window by window."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule

from raycomp.data.images import IMAGES, listed, read_image
from raycomp.data.resize import resized_image
from raycomp.deploy import model as models
from raycomp.deploy.model import CARD_FIELD, ModelCard
from raycomp.errors import UserError, first_line, logger, nearest
from raycomp.evaluate.labels import labels_at
from raycomp.evaluate.sliding import normalised, sliding_logits
from raycomp.files import written
from raycomp.shape import Scale
from raycomp.storage import resolved

MODELS = (".safetensors", ".onnx", ".pt2")

Run = Callable[[Tensor], Tensor]
"""Maps normalised images (B, 3, H, W) to logits (B, K, H, W)."""


def open_model(path: Path, device: torch.device) -> tuple[Run, ModelCard]:
    """Open an exported model: torch runs `.safetensors` and `.pt2`, onnxruntime runs `.onnx`.

    The model takes images, and returns logits, on the device.

    Raises:
        UserError: if the file is missing, is not a raycomp export, or cannot run on the device.
    """
    check_model(path)
    if path.suffix == ".onnx":
        return _open_onnx(path, device)
    if path.suffix == ".pt2":
        return _open_program(path, device)
    card, model = models.read_card(path), models.load(path)
    if len(card.classes) != model.shape.classes:
        raise UserError(f"{path}: {CARD_FIELD!r} has {len(card.classes)} classes, the model {model.shape.classes}")
    if model.recipe.precision != "fp32":
        logger.warning("%s: float32 weights of an INT8 recipe; its INT8 model is the .int8.onnx file", path)
    return model.to(device), card


def check_model(path: Path) -> None:
    """Raise a UserError unless the path names a file with a suffix of exported models."""
    if path.suffix not in MODELS:
        raise UserError(f"{path}: expected a model that `raycomp export` wrote: {', '.join(MODELS)}")
    if not path.is_file():
        names = sorted(p.name for p in path.parent.glob("*") if p.suffix in MODELS and p.is_file())
        hint = nearest(path.name, names) if names else f"there is none in {path.parent}"
        raise UserError(f"no model {path}; {hint}")


def _open_onnx(path: Path, device: torch.device) -> tuple[Run, ModelCard]:
    from raycomp.deploy.onnx import read_session, run_bound

    session = read_session(path, device)
    card = models.parse_card(session.get_modelmeta().custom_metadata_map.get(CARD_FIELD), path)
    return partial(run_bound, session), card


def _open_program(path: Path, device: torch.device) -> tuple[Run, ModelCard]:
    metadata = {CARD_FIELD: ""}
    try:
        program = torch.export.load(path, extra_files=metadata)
    except Exception as error:  # torch's reader raises many exceptions
        logger.debug("reading %s", path, exc_info=True)
        raise UserError(f"{path}: not a readable torch.export program ({first_line(error)})") from None
    card = models.parse_card(metadata[CARD_FIELD], path)
    return (program if device.type == "cpu" else moved(program, device)).module(), card


def moved(program: ExportedProgram, device: torch.device) -> ExportedProgram:
    """Move weights, constants and graph of a program, which names its device, to another; the program changes, too.

    torch's pass does not change the device of autocast regions, and older versions skip the nodes inside them.

    Raises:
        UserError: if this torch cannot move programs.
    """
    try:
        from torch.export.passes import move_to_device_pass
    except ImportError:
        raise UserError(
            f"--device {device}: torch {torch.__version__} cannot move a .pt2 program from the CPU, torch 2.7 can; "
            "the .safetensors file runs on both"
        ) from None
    program = move_to_device_pass(program, device)
    for module in program.graph_module.modules():
        if isinstance(module, GraphModule):
            for node in module.graph.nodes:
                if "device" in node.kwargs:
                    node.kwargs = {**node.kwargs, "device": device}
                if node.target is torch.ops.higher_order.wrap_with_autocast:
                    node.args = (device.type, *node.args[1:])
            module.recompile()
    return program


def image_files(path: Path) -> list[Path]:
    """Return an image file, or all images of a folder sorted by name.

    Raises:
        UserError: if there is none.
    """
    if path.is_dir():
        files = listed(path, IMAGES)
        if not files:
            raise UserError(f"{path}: no image in this folder; allowed: {', '.join(IMAGES)}")
        return files
    if not path.is_file():
        raise UserError(f"{path}: no such image or folder")
    return [path]


def pictures(files: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Name the picture of each image: a PNG in `out` with the image's stem, or its full name if images share a stem.

    No name collides with that of a label file, `labels_of`.

    Raises:
        UserError: if a picture could overwrite an image.
    """
    for path in files:
        if resolved(out) in (resolved(path).parent, resolved(path.parent)):
            raise UserError(
                f"--out {out}: the folder of {path}; choose another, because a picture could overwrite an image"
            )
    stems = Counter(path.stem.casefold() for path in files)  # some file systems ignore case
    named, taken = dict[Path, Path](), set[str]()
    for path in files:
        base = path.stem if stems[path.stem.casefold()] == 1 else path.name
        for name in (base, *(f"{base}_{number}" for number in range(2, len(files) + 2))):
            picture = out / f"{name}.png"
            names = {picture.name.casefold(), labels_of(picture).name.casefold()}
            if not names & taken:
                break
        named[path] = picture
        taken |= names
    return named


def labels_of(picture: Path) -> Path:
    """Return the label file, of class indices, beside a picture."""
    return picture.with_name(f"{picture.stem}_labels.png")


def predict(
    run: Run, card: ModelCard, files: list[Path], device: torch.device
) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
    """Segment images one by one.

    Yields:
        The file, its image (H, W, 3) uint8, and the class of each pixel (H, W) uint8.
    """
    for path in files:
        image = read_image(path)
        size = (image.shape[0], image.shape[1])
        pixels = resized_image(image, Scale(card.short_side, card.long_side).of(size))
        x = normalised(torch.from_numpy(pixels)[None].to(device), card.mean, card.std, torch.float32)
        with torch.inference_mode():
            labels = labels_at(sliding_logits(run, x, card.window, card.stride), size)
        yield path, image, labels[0].cpu().numpy().astype(np.uint8)


def write_labels(predicted: np.ndarray, path: Path) -> None:
    """Write class indices (H, W) as a grey PNG, atomically."""
    with written(path) as temporary:
        Image.fromarray(predicted).save(temporary)
