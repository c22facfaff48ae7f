# SPDX-License-Identifier: Apache-2.0
"""What a reader gets, a file with what lies beside it, and what it returns, a translated model."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from torch import Tensor

from raycomp.config import explain
from raycomp.errors import UserError, first_line
from raycomp.models import tensors
from raycomp.shape import ModelShape, Size

Forward = Callable[[Tensor], Tensor]
"""Map normalised images (B, 3, height, width) to logits (B, K, height, width), or to features (B, P + N, E)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the user states about a model, for what its file does not tell."""

    heads: int | None = None
    image: Size | None = None
    """Height and width of the input, pixels."""
    normalization: str | None = None
    """Pixel mean and std, by the name that `ModelShape` has for them."""
    name: str | None = None
    """Name of the model in timm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The tensors of a file, with the configuration inside it or beside it."""

    path: Path
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    """`config.json` in the same folder, as timm and transformers write it."""
    processor: Mapping[str, Any] = field(default_factory=dict)
    """`preprocessor_config.json` in the same folder."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Entries of a training checkpoint beside its weights, such as mmengine's `meta`."""
    header: Mapping[str, str] = field(default_factory=dict)
    """Metadata of a safetensors file."""
    given: Given = field(default_factory=Given)

    def stated(self, given: Given) -> "Source":
        """Return the source with what the user states."""
        return replace(self, given=given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a file's configuration says about its encoder; None where it says nothing."""

    heads: int | None = None
    image: Size | None = None
    """Height and width that the positions are for, pixels."""
    image_certain: bool = True
    """Whether positions for another size contradict the configuration."""
    placed: Literal["all", "class", "none"] | None = None
    """Special tokens that have a learned position: all, those that are no registers, or none."""
    norm_eps: float | None = None
    activation: str | None = None
    normalization: str | None = None
    rope_base: float | None = None
    """Base of the rotary periods; learned positions where None."""
    declared: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Width, depth, patch and mlp with the names that the configuration has for them, checked against the tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """A model in raycomp's names."""

    family: str
    shape: ModelShape
    tensors: dict[str, Tensor]
    """By their names in `Segmenter`; without a head, those of the encoder."""
    has_head: bool
    heads_told: bool = True
    """Whether the file tells the number of attention heads; else it is what the user stated."""
    mean_told: bool = True
    """Whether the file tells the pixel mean and std."""
    folded: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    inferred: tuple[str, ...] = ()
    original: Callable[[], Forward] | None = None
    """Build the original model; None where the library that defines it is not a dependency."""


def open_source(path: Path) -> Source:
    """Read a file, or the model in a folder, with what lies beside it.

    Raises:
        UserError: if it cannot be read.
    """
    file = _in_folder(path) if path.is_dir() else path
    held, meta = tensors.read_with_meta(file)
    return Source(
        path=file,
        tensors=held,
        config=_json(file.with_name("config.json")),
        processor=_json(file.with_name("preprocessor_config.json")),
        meta=meta,
        header=tensors.metadata(file),
    )


def _in_folder(folder: Path) -> Path:
    usual = ("model.safetensors", "pytorch_model.bin")
    found = [folder / name for name in usual if (folder / name).is_file()] or sorted(folder.glob("*.safetensors"))
    if (folder / "model.safetensors.index.json").is_file():
        raise UserError(f"{folder}: the weights are in several files; save them as one model.safetensors")
    if not found or (len(found) > 1 and found[0].name not in usual):
        raise UserError(f"{folder}: a folder; expected {' or '.join(usual)} in it, or name the file")
    return found[0]


def _json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({first_line(error)})") from None
    if not isinstance(held, dict):
        raise UserError(f"{path}: expected a JSON object, not {type(held).__name__}")
    return held


_PIXELS = {
    "vit": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "deit": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


def normalization_of(mean: object, std: object, where: str) -> str | None:
    """Return the name of a pixel mean and std, in [0, 1] or in [0, 255]; None if they are not stated.

    Raises:
        UserError: for other numbers.
    """
    if mean is None and std is None:
        return None
    try:
        stated = [[float(v) for v in values] for values in (mean, std)]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        stated = []
    scale = 255.0 if stated and max(stated[0], default=0) > 1 else 1.0
    for name, expected in _PIXELS.items():
        pairs = zip(stated, expected, strict=True) if len(stated) == 2 else ()
        close = [len(a) == 3 and all(abs(x / scale - y) < 2e-3 for x, y in zip(a, b, strict=True)) for a, b in pairs]
        if close and all(close):
            return name
    known = "; ".join(f"{name} {mean} {std}" for name, (mean, std) in _PIXELS.items())
    raise UserError(f"{where}: pixel mean {mean} and std {std} are not taken; known are {known}")


def validated(fields: Mapping[str, object], path: Path) -> ModelShape:
    """Return a model shape.

    Raises:
        UserError: naming the field that is not possible.
    """
    try:
        return ModelShape.model_validate(dict(fields))
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, ModelShape)}") from None
