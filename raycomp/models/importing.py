# SPDX-License-Identifier: Apache-2.0
"""Import a model of another framework: translate its checkpoint, and compare it with the original."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raycomp.errors import UserError, first_line, logger, nearest
from raycomp.models import readers, tensors
from raycomp.models.readers import Given, Source, Translation, hub, mapped, open_source
from raycomp.models.readers.positions import resampled
from raycomp.models.readers.source import Forward
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import dense
from raycomp.shape import Size

Part = Literal["model", "encoder"]
TOLERANCE = 1e-4
"""Largest difference of logits or features between the original and ours, relative to the largest above 1."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A translated model."""

    found: Translation
    """At the input size that was asked for."""
    model: Segmenter
    """Without a head in the file, its head is untrained."""
    difference: float | None
    """Difference from the original, see `TOLERANCE`; None if that cannot be built here."""
    compared: Part = "model"
    """What the original answers for: the logits of the model, or only the features of its encoder."""


def open_model(name: str) -> Source:
    """Open a file, a folder, or the id of a model on the Hugging Face hub.

    Raises:
        UserError: if it cannot be read or fetched.
    """
    return open_source(hub.fetched(name) if hub.is_id(name) else Path(name))


def import_model(source: Source, given: Given, names: Path | None = None, factory: str | None = None) -> Imported:
    """Translate a source and compare it with the original.

    Args:
        given: What the source does not tell; with another size, positions are resampled after the comparison.
        names: A map of tensor names, for files of no family.
        factory: `module:function` that returns the original.

    Raises:
        UserError: if the source does not fit, or differs from the original by more than `TOLERANCE`.
    """
    found = readers.read(source.stated(given)) if names is None else mapped.read(source, names)
    for field in ("heads", "normalization"):
        wanted, actual = getattr(given, field), getattr(found.shape, field)
        if wanted is not None and wanted != actual:
            raise UserError(f"{source.path}: it has {field} {actual}, not {wanted}")
    model = built(found, source.path)
    original = made_by(factory) if factory is not None else _original(found)
    difference: float | None = None
    part: Part = "model"
    if original is not None:
        difference, part = compared(model, found, original)
    if difference is not None and not difference <= TOLERANCE:  # also NaN
        raise UserError(f"{source.path}: differs from the original by {difference:.2g}, more than {TOLERANCE:g}")
    if given.image is not None and given.image != found.shape.image:
        found = at_size(found, given.image)
        model = built(found, source.path)
    return Imported(found, model, difference, part)


def built(found: Translation, path: Path) -> Segmenter:
    """Return the model of a translation; a head that it lacks is left as torch initialises it."""
    model = Segmenter(found.shape, dense(found.shape)).eval()
    if found.has_head:
        tensors.fill(model, found.tensors, path)
    else:
        tensors.fill(model.encoder, {name.removeprefix("encoder."): t for name, t in found.tensors.items()}, path)
    return model


def at_size(found: Translation, image: Size) -> Translation:
    """Return the translation for another input size: learned positions are resampled bilinearly."""
    if any(side < found.shape.patch for side in image):
        raise UserError(f"--image {image[0]}x{image[1]}: smaller than one patch of {found.shape.patch} pixels")
    shape, name = found.shape.model_copy(update={"image": image}), "encoder.pos_embed"
    held = dict(found.tensors)
    folded = found.folded
    if name in held:
        held[name] = resampled(held[name], shape.prefix, found.shape.grid(), shape.grid())
        before, after = (f"{rows}x{columns}" for rows, columns in (found.shape.grid(), shape.grid()))
        folded = (*folded, f"positions are resampled from {before} to {after} patches")
    return replace(found, shape=shape, tensors=held, folded=folded)


def compared(model: Segmenter, found: Translation, original: Forward) -> tuple[float, Part]:
    """Return the largest difference between the original and ours on random pixels, and what was compared.

    The difference is relative to the largest value of the original if that exceeds 1.
    """
    images = torch.randn(1, 3, *found.shape.image, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        try:
            theirs = _tensor(original(images)).float()
        except Exception as error:  # whatever the original raises
            logger.debug("running the original", exc_info=True)
            raise UserError(f"the original does not run on pixels {list(images.shape)} ({first_line(error)})") from None
        ours = model.encoder(images)[0] if theirs.ndim == 3 else model(images)
        if theirs.ndim == 4 and theirs.shape[-2:] != ours.shape[-2:]:
            theirs = F.interpolate(theirs, ours.shape[-2:], mode="bilinear")
    if theirs.shape != ours.shape:
        raise UserError(f"the original returns {list(theirs.shape)}, ours {list(ours.shape)}, for {list(images.shape)}")
    difference = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1))
    return difference, "encoder" if theirs.ndim == 3 else "model"


def _original(found: Translation) -> Forward | None:
    """Build the original model where its library is installed."""
    if found.original is None:
        return None
    try:
        return found.original()
    except ImportError as error:
        logger.debug("building the original: %s", error)
        return None


def made_by(factory: str) -> Callable[[Tensor], Any]:
    """Return the original that `module:function` builds; the working directory is on the path.

    Raises:
        UserError: if there is no such function, or if it fails.
    """
    module, _, function = factory.partition(":")
    if not module or not function:
        raise UserError(f"--factory {factory}: expected module:function")
    sys.path.insert(0, str(Path.cwd()))
    try:
        home = importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"--factory {factory}: {first_line(error)}") from None
    finally:
        sys.path.pop(0)
    if not callable(build := getattr(home, function, None)):
        raise UserError(f"--factory {factory}: {module} has no function {function!r}; {nearest(function, dir(home))}")
    try:
        original = build()
    except Exception as error:  # whatever the user's code raises
        logger.debug("building %s", factory, exc_info=True)
        raise UserError(f"--factory {factory} fails ({type(error).__name__}: {first_line(error)})") from None
    return original.eval() if isinstance(original, torch.nn.Module) else original


def _tensor(output: Any) -> Tensor:
    """Return the logits or features in what a model returns."""
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "out", "last_hidden_state"):
        held = output.get(name) if isinstance(output, dict) else getattr(output, name, None)
        if isinstance(held, Tensor):
            return held
    raise UserError(f"the original returns {type(output).__name__}; expected logits (B, K, height, width)")
