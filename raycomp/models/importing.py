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
from raycomp.models.readers import Source, Translation, UserFacts, hub, mapped, open_source
from raycomp.models.readers.positions import resampled
from raycomp.models.readers.source import Forward
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import dense
from raycomp.shape import Size

Part = Literal["model", "encoder"]
TOLERANCE = 1e-4
"""Largest accepted difference of logits or features from the original, relative to its largest value above 1."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A translated model."""

    translation: Translation
    """At the requested input size."""
    model: Segmenter
    """Its head is untrained if the file has none."""
    difference: float | None
    """Difference from the original, see `TOLERANCE`; None if the original cannot be built here."""
    compared: Part = "model"
    """What was compared: the logits of the model, or only the features of its encoder."""


def open_model(name: str) -> Source:
    """Open a file, a folder, or the id of a model on the Hugging Face hub.

    Raises:
        UserError: if it cannot be read or fetched.
    """
    return open_source(hub.fetched(name) if hub.is_id(name) else Path(name))


def import_model(source: Source, user: UserFacts, names: Path | None = None, factory: str | None = None) -> Imported:
    """Translate a source and compare it with the original.

    Args:
        user: Facts that the source does not state. To change the size, positions are resampled after the comparison.
        names: A map of tensor names, for files of an unknown family.
        factory: `module:function` that returns the original.

    Raises:
        UserError: if the source does not fit, or differs from the original by more than `TOLERANCE`.
    """
    translation = readers.read(source.with_user(user)) if names is None else mapped.read(source, names)
    for field in ("heads", "normalization"):
        expected, actual = getattr(user, field), getattr(translation.shape, field)
        if expected is not None and expected != actual:
            raise UserError(f"{source.path}: it has {field} {actual}, not {expected}")
    model = built(translation, source.path)
    original = made_by(factory) if factory is not None else _original(translation)
    difference: float | None = None
    part: Part = "model"
    if original is not None:
        difference, part = compared(model, translation, original)
    if difference is not None and not difference <= TOLERANCE:  # also NaN
        raise UserError(f"{source.path}: differs from the original by {difference:.2g}, more than {TOLERANCE:g}")
    if user.image is not None and user.image != translation.shape.image:
        translation = at_size(translation, user.image)
        model = built(translation, source.path)
    return Imported(translation, model, difference, part)


def built(translation: Translation, path: Path) -> Segmenter:
    """Build the model of a translation; a missing head keeps torch's initial weights."""
    model = Segmenter(translation.shape, dense(translation.shape)).eval()
    if translation.has_head:
        tensors.fill(model, translation.tensors, path)
    else:
        tensors.fill(model.encoder, {name.removeprefix("encoder."): t for name, t in translation.tensors.items()}, path)
    return model


def at_size(translation: Translation, image: Size) -> Translation:
    """Return a translation for another input size, with learned positions resampled bilinearly."""
    if any(side < translation.shape.patch for side in image):
        raise UserError(f"--image {image[0]}x{image[1]}: smaller than one patch of {translation.shape.patch} pixels")
    shape, name = translation.shape.model_copy(update={"image": image}), "encoder.pos_embed"
    weights = dict(translation.tensors)
    folded = translation.folded
    if name in weights:
        weights[name] = resampled(weights[name], shape.prefix, translation.shape.grid(), shape.grid())
        before, after = (f"{rows}x{columns}" for rows, columns in (translation.shape.grid(), shape.grid()))
        folded = (*folded, f"positions are resampled from {before} to {after} patches")
    return replace(translation, shape=shape, tensors=weights, folded=folded)


def compared(model: Segmenter, translation: Translation, original: Forward) -> tuple[float, Part]:
    """Return the largest difference from the original on random pixels, and what was compared.

    The difference is relative to the largest value of the original if that exceeds 1.
    """
    images = torch.randn(1, 3, *translation.shape.image, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        try:
            reference = _tensor(original(images)).float()
        except Exception as error:  # whatever the original raises
            logger.debug("running the original", exc_info=True)
            raise UserError(f"the original does not run on pixels {list(images.shape)} ({first_line(error)})") from None
        result = model.encoder(images)[0] if reference.ndim == 3 else model(images)
        if reference.ndim == 4 and reference.shape[-2:] != result.shape[-2:]:
            reference = F.interpolate(reference, result.shape[-2:], mode="bilinear")
    if reference.shape != result.shape:
        shapes = f"the original returns {list(reference.shape)}, raycomp {list(result.shape)}"
        raise UserError(f"{shapes}, for pixels {list(images.shape)}")
    difference = float((result - reference).abs().max() / reference.abs().max().clamp(min=1))
    return difference, "encoder" if reference.ndim == 3 else "model"


def _original(translation: Translation) -> Forward | None:
    """Build the original model where its library is installed."""
    if translation.original is None:
        return None
    try:
        return translation.original()
    except ImportError as error:
        logger.debug("building the original: %s", error)
        return None


def made_by(factory: str) -> Callable[[Tensor], Any]:
    """Build the original with `module:function`; modules in the working directory can be imported.

    Raises:
        UserError: if the function does not exist, or if it fails.
    """
    module, _, function = factory.partition(":")
    if not module or not function:
        raise UserError(f"--factory {factory}: expected module:function")
    sys.path.insert(0, str(Path.cwd()))
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"--factory {factory}: {first_line(error)}") from None
    finally:
        sys.path.pop(0)
    if not callable(build := getattr(imported, function, None)):
        raise UserError(
            f"--factory {factory}: {module} has no function {function!r}; {nearest(function, dir(imported))}"
        )
    try:
        original = build()
    except Exception as error:  # whatever the user's code raises
        logger.debug("building %s", factory, exc_info=True)
        raise UserError(f"--factory {factory} fails ({type(error).__name__}: {first_line(error)})") from None
    return original.eval() if isinstance(original, torch.nn.Module) else original


def _tensor(output: Any) -> Tensor:
    """Return the logits or features in the output of a model."""
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "out", "last_hidden_state"):
        value = output.get(name) if isinstance(output, dict) else getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    raise UserError(f"the original returns {type(output).__name__}; expected logits (B, K, height, width)")
