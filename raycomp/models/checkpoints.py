# SPDX-License-Identifier: Apache-2.0
"""Read and write models: our own safetensors, official Segmenter checkpoints, timm backbones."""

import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ValidationError

from raycomp.config import explain
from raycomp.errors import UserError, logger, nearest
from raycomp.models import readers, tensors
from raycomp.models.policy import Policy
from raycomp.models.readers import UserFacts, hub, official, open_source, own
from raycomp.models.readers.positions import resampled
from raycomp.models.segmenter import Segmenter, empty
from raycomp.models.tensors import metadata as metadata
from raycomp.recipe import dense
from raycomp.settings.space_and_search import SpaceConfig
from raycomp.shape import ModelShape
from raycomp.storage import AnyPath

PACKAGE_PREFIX = "package:"
STATE = ".state"
"""Suffix of the files that training resumes from."""
ELASTIC = "elastic"
"""Header field of an elastic model: the space of recipes it was trained over."""
_ENCODER = "encoder."
_OF_THE_ENCODER = (
    "width", "heads", "depth", "patch", "prefix", "registers", "position", "rope_base", "mlp", "activation", "qk_norm",
    "pre_norm",
)  # fmt: skip
"""Fields of a shape in which a backbone must be equal."""
_SHARING_POLICY = "encoder.sharer.policy."  # prefix of the policy network in a model that shares tokens
_POLICY_FORMAT = "raycomp-policy-1"


def locate(checkpoint: str, field: str = "model.checkpoint") -> Path:
    """Return the file that a checkpoint field of a search space names; `package:NAME` ships with raycomp.

    Raises:
        UserError: if the file does not exist.
    """
    if checkpoint.startswith(PACKAGE_PREFIX):
        folder = Path(str(resources.files("raycomp") / "weights"))
        path = folder / checkpoint.removeprefix(PACKAGE_PREFIX)
    else:
        path = Path(checkpoint)
        folder = path.parent
    if not path.is_file():
        names = sorted(p.name for p in folder.glob("*.safetensors")) if folder.is_dir() else []
        hint = nearest(path.name, names) if names else f"there is none in {folder}"
        raise UserError(f"{field}: no file {path}; {hint}")
    return path


def fingerprint(path: Path) -> str:
    """Return the first twelve hexadecimal digits of the file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def save(model: Segmenter, path: AnyPath, metadata: Mapping[str, str] | None = None, half: bool = False) -> None:
    """Write a model with its shape and recipe atomically; `half` stores float16."""
    dtype = torch.float16 if half else torch.float32
    header = {
        **(metadata or {}),
        "format": own.FORMAT,
        "shape": model.shape.model_dump_json(),
        "recipe": model.recipe.canonical_json(),
    }
    weights = {name: t.to(dtype) if t.is_floating_point() else t for name, t in model.state_dict().items()}
    tensors.write(weights, path, header)


def is_elastic(path: Path) -> bool:
    """Return whether a file holds an elastic model, whose units are sorted."""
    return not tensors.is_torch(path) and ELASTIC in metadata(path)


def elastic_space(path: Path) -> SpaceConfig:
    """Return the space of recipes that an elastic model was trained over.

    Raises:
        UserError: if the model is not elastic, or its space cannot be read.
    """
    text = metadata(path).get(ELASTIC)
    if text is None:
        raise UserError(f"{path}: not an elastic model; raycomp train --elastic makes one from a dense model")
    try:
        return SpaceConfig.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{path}: field {ELASTIC!r}: {explain(error, SpaceConfig)}") from None


def load(path: Path, expected: ModelShape | None = None) -> Segmenter:
    """Read a Segmenter in float32: ours, or official (`checkpoint.pth` beside `variant.yml`).

    With `expected`, the `.state` of an unfinished dense training is accepted, too.

    Raises:
        UserError: if the file is neither, or is truncated, or if its weights are not finite or do not fit `expected`.
    """
    if path.suffix == STATE and expected is not None:
        return _load_state(path, expected).eval()
    model = _load_official(path) if tensors.is_torch(path) else _load_raycomp(path)
    if expected is not None and expected != model.shape:
        wanted, actual = expected.model_dump(), model.shape.model_dump()
        field = next(name for name in wanted if wanted[name] != actual[name])
        raise UserError(
            f"{path}: checkpoint has {field} {actual[field]}, the search space model.shape.{field} {wanted[field]}"
        )
    return model.eval()


def _load_official(path: Path) -> Segmenter:
    official.read_shape(path)  # before the tensors, which may be large
    translation = official.read(open_source(path))
    model = empty(translation.shape, dense(translation.shape))
    tensors.fill(model, translation.tensors, path)
    return model


def _load_raycomp(path: Path) -> Segmenter:
    shape, recipe = own.shape_and_recipe(
        path, _header(path, own.FORMAT, "a raycomp checkpoint; `raycomp import` translates others")
    )
    weights = {name: tensor for name, tensor in tensors.read(path).items() if not name.startswith(_SHARING_POLICY)}
    model = empty(shape, recipe)
    tensors.fill(model, weights, path)
    return model


def _header(path: Path, expected: str, what: str) -> dict[str, str]:
    header = metadata(path)
    if (actual := header.get("format")) != expected:
        raise UserError(f"{path}: field 'format' is {actual!r}, not {expected!r}: not {what}")
    return header


def _load_state(path: Path, shape: ModelShape) -> Segmenter:
    """Load the weights of an unfinished dense training: the averaged weights if it averages them."""
    state = tensors.unpickled(path)
    if not isinstance(state, dict) or "model" not in state:
        raise UserError(f"{path}: not a training state")
    current, average = (tensors.checked(state.get(key, {}), path) for key in ("model", "average"))
    averaged = {n.removeprefix("module."): t for n, t in average.items() if n.startswith("module.")}
    model = empty(shape, dense(shape))
    tensors.fill(model, averaged or current, path)
    return model


class _PolicyHeader(BaseModel):
    kind: Literal["efficientnet_lite0", "small"]
    patch: int


def save_policy(policy: Policy, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a policy network with its kind and patch side atomically."""
    header = {**metadata, "format": _POLICY_FORMAT, "kind": policy.kind, "patch": str(policy.patch)}
    tensors.write(policy.state_dict(), path, header)


def load_policy(path: Path, shape: ModelShape) -> Policy:
    """Read a policy network for a model of this shape.

    Raises:
        UserError: if the file holds no policy, or a policy for another patch size.
    """
    header = _header(path, _POLICY_FORMAT, "a policy")
    try:
        fields = _PolicyHeader.model_validate(header)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, _PolicyHeader)}") from None
    if fields.patch != shape.patch:
        raise UserError(f"{path}: the policy is for patches of {fields.patch} pixels, the model has {shape.patch}")
    policy = Policy(fields.kind, shape.patch)
    tensors.fill(policy, tensors.read(path), path)
    return policy.eval()


def load_sharing_policy(path: Path, model: Segmenter) -> Policy | None:
    """Load the policy network stored in a model's checkpoint; return None if its merge method needs none.

    Raises:
        UserError: if the checkpoint was written without it.
    """
    merge = model.recipe.merge
    if merge is None or merge.policy_kind is None:
        return None
    policy = Policy(merge.policy_kind, model.shape.patch)
    prefix = _SHARING_POLICY
    weights = {n.removeprefix(prefix): t for n, t in tensors.read(path).items() if n.startswith(prefix)}
    tensors.fill(policy, weights, path)
    return policy.eval()


def load_backbone(model: Segmenter, name: str | None, file: Path | None) -> None:
    """Load ImageNet weights of a timm ViT into the encoder, from a local file or else from timm's hub by name.

    Raises:
        UserError: if neither can be read, or the weights do not fit the encoder.
    """
    shape, where = model.shape, Path(str(name)) if file is None else file
    source = open_source(file) if file is not None else hub.backbone(str(name))
    user = UserFacts(heads=shape.heads, image=shape.image, normalization=shape.normalization, name=name)
    translation = readers.read(source.with_user(user))
    for field in _OF_THE_ENCODER:
        if (actual := getattr(translation.shape, field)) != (expected := getattr(shape, field)):
            raise UserError(f"{where}: the backbone has {field} {actual}, model.shape.{field} is {expected}")
    for field in ("normalization", "norm_eps"):
        if (actual := getattr(translation.shape, field)) != (expected := getattr(shape, field)):
            logger.warning("%s: the backbone has %s %s, model.shape.%s is %s", where, field, actual, field, expected)
    weights = {key.removeprefix(_ENCODER): t for key, t in translation.tensors.items() if key.startswith(_ENCODER)}
    if "pos_embed" in weights:
        weights["pos_embed"] = resampled(weights["pos_embed"], shape.prefix, translation.shape.grid(), shape.grid())
    tensors.fill(model.encoder, weights, where)
