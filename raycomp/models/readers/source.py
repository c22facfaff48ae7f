# SPDX-License-Identifier: Apache-2.0
"""Input of a reader, a file and its configuration, and its output, a translated model."""

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

DINOV3_ROPE_BASE = 100.0
"""Base of the rotary periods of every DINOv3."""

Forward = Callable[[Tensor], Tensor]
"""Map normalised images (B, 3, height, width) to logits (B, K, height, width), or to features (B, P + N, E)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFacts:
    """Facts that the user states because the file does not; None where the user states nothing."""

    heads: int | None = None
    image: Size | None = None
    """Height and width of the input, pixels."""
    normalization: str | None = None
    """Pixel mean and std, by their name in `ModelShape`."""
    name: str | None = None
    """Name of the model in timm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Tensors of a file, with the configuration inside or beside it."""

    path: Path
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    """`config.json` in the same folder, as timm and transformers write it."""
    processor: Mapping[str, Any] = field(default_factory=dict)
    """`preprocessor_config.json` in the same folder."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Other entries of a training checkpoint, such as mmengine's `meta`."""
    header: Mapping[str, str] = field(default_factory=dict)
    """Metadata of a safetensors file."""
    user: UserFacts = field(default_factory=UserFacts)

    def with_user(self, user: UserFacts) -> "Source":
        """Return the source with the facts that the user states."""
        return replace(self, user=user)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts that the configuration states about the encoder; None where it states nothing."""

    heads: int | None = None
    image: Size | None = None
    """Height and width of the position grid, pixels."""
    image_certain: bool = True
    """Whether positions of another size contradict the configuration."""
    positioned: Literal["all", "class", "none"] | None = None
    """Special tokens that have a learned position: all, all but registers, or none."""
    norm_eps: float | None = None
    activation: str | None = None
    normalization: str | None = None
    rope_base: float | None = None
    """Base of the rotary periods; None for learned positions."""
    declared: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Width, depth and patch, each with its key in the configuration; checked against the tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """A model with raycomp's tensor names."""

    family: str
    shape: ModelShape
    tensors: dict[str, Tensor]
    """By their names in `Segmenter`; only those of the encoder if the file has no head."""
    has_head: bool
    heads_stated: bool = True
    """Whether the file states the number of attention heads; otherwise the user did."""
    normalization_stated: bool = True
    """Whether the file states the pixel mean and std."""
    folded: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    inferred: tuple[str, ...] = ()
    original: Callable[[], Forward] | None = None
    """Builds the original model; None if raycomp does not know how."""


def open_source(path: Path) -> Source:
    """Read a file, or the model in a folder, with the configuration beside it.

    Raises:
        UserError: if it cannot be read.
    """
    file = _in_folder(path) if path.is_dir() else path
    weights, meta = tensors.read_with_meta(file)
    return Source(
        path=file,
        tensors=weights,
        config=_json(file.with_name("config.json")),
        processor=_json(file.with_name("preprocessor_config.json")),
        meta=meta,
        header=tensors.metadata(file),
    )


def _in_folder(folder: Path) -> Path:
    usual = ("model.safetensors", "pytorch_model.bin")
    files = [folder / name for name in usual if (folder / name).is_file()] or sorted(folder.glob("*.safetensors"))
    if (folder / "model.safetensors.index.json").is_file():
        raise UserError(f"{folder}: the weights are in several files; save them as one model.safetensors")
    if not files or (len(files) > 1 and files[0].name not in usual):
        raise UserError(f"{folder}: a folder; expected {' or '.join(usual)} in it; or name the file")
    return files[0]


def _json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, not {type(content).__name__}")
    return content


_PIXELS = {
    "vit": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "deit": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


def normalization_of(mean: object, std: object, where: str) -> str | None:
    """Return the name of a pixel mean and std, given in [0, 1] or [0, 255]; None if they are not stated.

    Raises:
        UserError: if they have no name.
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
    supported = "; ".join(f"{name} {mean} {std}" for name, (mean, std) in _PIXELS.items())
    raise UserError(f"{where}: pixel mean {mean} and std {std} are not supported; supported: {supported}")


def validated(fields: Mapping[str, object], path: Path) -> ModelShape:
    """Return the model shape of these fields.

    Raises:
        UserError: naming the field that is not valid.
    """
    try:
        return ModelShape.model_validate(dict(fields))
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, ModelShape)}") from None
