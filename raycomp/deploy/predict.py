"""Segment images with an exported model, as a search space would: resized, normalised, window by window."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raycomp.data.images import IMAGES, listed, read_image
from raycomp.data.resize import resized_image
from raycomp.deploy import model as models
from raycomp.deploy.model import FACTS, ModelCard
from raycomp.deploy.program import moved
from raycomp.errors import UserError, first_line, logger, nearest
from raycomp.evaluate.labels import labels_at
from raycomp.evaluate.miou import normalised, sliding_logits
from raycomp.files import written
from raycomp.shape import Scale
from raycomp.storage import resolved

MODELS = (".safetensors", ".onnx", ".pt2")

Run = Callable[[Tensor], Tensor]
"""Normalised images (B, 3, H, W) to logits (B, K, H, W)."""


def open_model(path: Path, device: torch.device) -> tuple[Run, ModelCard]:
    """An exported model by its suffix: `.safetensors` or `.pt2` run by torch, `.onnx` by onnxruntime.

    The model takes images on the device, and its logits are there, too.

    Raises:
        UserError: for a file that is missing, or is not an export of ours, or that cannot run on the device.
    """
    if path.suffix not in MODELS:
        raise UserError(f"{path}: expected a model that `raycomp export` wrote: {', '.join(MODELS)}")
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*") if p.suffix in MODELS and p.is_file())
        hint = nearest(path.name, there) if there else f"there is none in {path.parent}"
        raise UserError(f"no model {path}; {hint}")
    if path.suffix == ".onnx":
        return _open_onnx(path, device)
    if path.suffix == ".pt2":
        return _open_program(path, device)
    facts, model = models.read_facts(path), models.load(path)
    if len(facts.classes) != model.shape.classes:
        raise UserError(f"{path}: {FACTS} name {len(facts.classes)} classes, the model has {model.shape.classes}")
    return model.to(device), facts


def _open_onnx(path: Path, device: torch.device) -> tuple[Run, ModelCard]:
    from raycomp.deploy.onnx import open_session, run_bound

    try:
        session = open_session(str(path), device)
    except UserError:
        raise
    except Exception as error:  # onnxruntime raises kinds of its own
        logger.debug("reading %s", path, exc_info=True)
        raise UserError(f"{path}: not a readable ONNX graph ({first_line(error)})") from None
    facts = models.parse_facts(session.get_modelmeta().custom_metadata_map.get(FACTS), path)
    return partial(run_bound, session), facts


def _open_program(path: Path, device: torch.device) -> tuple[Run, ModelCard]:
    held = {FACTS: ""}
    try:
        program = torch.export.load(path, extra_files=held)
    except Exception as error:  # torch's reader raises many kinds
        logger.debug("reading %s", path, exc_info=True)
        raise UserError(f"{path}: not a readable torch.export program ({first_line(error)})") from None
    facts = models.parse_facts(held[FACTS], path)
    return (program if device.type == "cpu" else moved(program, device)).module(), facts


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


def pictures(files: Sequence[Path], out: Path) -> dict[Path, Path]:
    """The picture of each image: a PNG in `out`, named after the image; after its whole name where others share it.

    Each name leaves room for that of the labels, `labels_of`.

    Raises:
        UserError: where one could overwrite an image.
    """
    for path in files:
        if resolved(out) in (resolved(path).parent, resolved(path.parent)):
            raise UserError(f"--out {out}: the folder of {path}; choose another, as a picture could overwrite an image")
    sharing = Counter(path.stem.casefold() for path in files)  # as file systems may not tell x from X
    found, taken = dict[Path, Path](), set[str]()
    for path in files:
        base = path.stem if sharing[path.stem.casefold()] == 1 else path.name
        for name in (base, *(f"{base}_{number}" for number in range(2, len(files) + 2))):
            picture = out / f"{name}.png"
            own = {picture.name.casefold(), labels_of(picture).name.casefold()}
            if not own & taken:
                break
        found[path] = picture
        taken |= own
    return found


def labels_of(picture: Path) -> Path:
    """The file of class indices beside a picture."""
    return picture.with_name(f"{picture.stem}_labels.png")


def predict(
    run: Run, facts: ModelCard, files: list[Path], device: torch.device
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
