"""Read and write models: our own safetensors, official Segmenter checkpoints, timm backbones."""

import hashlib
from collections.abc import Mapping
from importlib import resources
from math import isqrt
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ValidationError

from raycomp.config import explain
from raycomp.errors import UserError, first_line, logger, nearest
from raycomp.models import official, tensors
from raycomp.models._timm import create_model, resample_abs_pos_embed
from raycomp.models.policy import Policy
from raycomp.models.segmenter import Segmenter, empty
from raycomp.models.tensors import metadata as metadata
from raycomp.recipe import Recipe, check_fits, dense
from raycomp.settings.space_and_search import SpaceConfig
from raycomp.shape import ModelShape
from raycomp.storage import AnyPath

PACKAGE_PREFIX = "package:"
STATE = ".state"
"""Suffix of the files that trainings go on from."""
ELASTIC = "elastic"
"""Header field of an elastic model: the space of recipes it was trained over."""
_SHARER = "encoder.sharer.policy."  # the policy network inside a model that shares tokens
_FORMAT, _POLICY_FORMAT = "raycomp-1", "raycomp-policy-1"


def locate(checkpoint: str, field: str = "model.checkpoint") -> Path:
    """The file of a checkpoint that a field of a search space names; `package:NAME` ships with raycomp.

    Raises:
        UserError: when there is no such file.
    """
    if checkpoint.startswith(PACKAGE_PREFIX):
        folder = Path(str(resources.files("raycomp") / "weights"))
        path = folder / checkpoint.removeprefix(PACKAGE_PREFIX)
    else:
        path = Path(checkpoint)
        folder = path.parent
    if not path.is_file():
        there = sorted(p.name for p in folder.glob("*.safetensors")) if folder.is_dir() else []
        hint = nearest(path.name, there) if there else f"there is none in {folder}"
        raise UserError(f"{field}: no file {path}; {hint}")
    return path


def fingerprint(path: Path) -> str:
    """Twelve hexadecimal digits of the file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def save(model: Segmenter, path: AnyPath, metadata: Mapping[str, str] | None = None, half: bool = False) -> None:
    """Write a model with its shape and recipe, whole or not at all; `half` stores float16."""
    dtype = torch.float16 if half else torch.float32
    header = {
        **(metadata or {}),
        "format": _FORMAT,
        "shape": model.shape.model_dump_json(),
        "recipe": model.recipe.canonical_json(),
    }
    tensors.write({name: t.to(dtype) for name, t in model.state_dict().items()}, path, header)


def elastic_space(path: Path) -> SpaceConfig:
    """The space of recipes that an elastic model was trained over.

    Raises:
        UserError: for a model that is not elastic, or whose space cannot be read.
    """
    text = metadata(path).get(ELASTIC)
    if text is None:
        raise UserError(f"{path}: not an elastic model; raycomp train --elastic makes one of a dense one")
    try:
        return SpaceConfig.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{path}: field {ELASTIC!r}: {explain(error, SpaceConfig)}") from None


def load(path: Path, expected: ModelShape | None = None) -> Segmenter:
    """Read a Segmenter in float32: ours, or official (`checkpoint.pth` beside `variant.yml`).

    The `.state` of a dense training under way will do, too, where its shape is given.

    Raises:
        UserError: for a file that is neither, or is truncated; weights that are not finite or do not fit `expected`.
    """
    if path.suffix == STATE and expected is not None:
        return _load_state(path, expected).eval()
    model = official.load(path) if tensors.is_torch(path) else _load_own(path)
    if expected is not None and expected != model.shape:
        ours, theirs = expected.model_dump(), model.shape.model_dump()
        field = next(name for name in ours if ours[name] != theirs[name])
        raise UserError(
            f"{path}: checkpoint has {field} {theirs[field]}, the search space model.shape.{field} {ours[field]}"
        )
    return model.eval()


def _load_own(path: Path) -> Segmenter:
    header = _header(path, _FORMAT, "a raycomp checkpoint")
    try:
        shape = ModelShape.model_validate_json(header.get("shape", "{}"))
        recipe = Recipe.model_validate_json(header.get("recipe", "{}"))
        check_fits(shape, recipe)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, ModelShape)}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    kept = {name: tensor for name, tensor in tensors.read(path).items() if not name.startswith(_SHARER)}
    model = empty(shape, recipe)
    tensors.fill(model, kept, path)
    return model


def _header(path: Path, wanted: str, what: str) -> dict[str, str]:
    header = metadata(path)
    if (found := header.get("format")) != wanted:
        raise UserError(f"{path}: field 'format' is {found!r}, not {wanted!r}: not {what}")
    return header


def _load_state(path: Path, shape: ModelShape) -> Segmenter:
    """The weights of a dense training under way: the averaged ones where it averages."""
    held = tensors.unpickled(path)
    if not isinstance(held, dict) or "model" not in held:
        raise UserError(f"{path}: not the state of a training")
    own, average = (tensors.checked(held.get(key, {}), path) for key in ("model", "average"))
    averaged = {n.removeprefix("module."): t for n, t in average.items() if n.startswith("module.")}
    model = empty(shape, dense(shape))
    tensors.fill(model, averaged or own, path)
    return model


class _PolicyHeader(BaseModel):
    kind: Literal["efficientnet_lite0", "small"]
    patch: int


def save_policy(policy: Policy, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a policy network with its kind and patch side, whole or not at all."""
    header = {**metadata, "format": _POLICY_FORMAT, "kind": policy.kind, "patch": str(policy.patch)}
    tensors.write(policy.state_dict(), path, header)


def load_policy(path: Path, shape: ModelShape) -> Policy:
    """Read a policy network for a model of this shape.

    Raises:
        UserError: for a file that is no policy, or one for patches of another size.
    """
    header = _header(path, _POLICY_FORMAT, "a policy")
    try:
        made = _PolicyHeader.model_validate(header)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, _PolicyHeader)}") from None
    if made.patch != shape.patch:
        raise UserError(f"{path}: the policy is for patches of {made.patch} pixels, the model has {shape.patch}")
    policy = Policy(made.kind, shape.patch)
    tensors.fill(policy, tensors.read(path), path)
    return policy.eval()


def load_sharing_policy(path: Path, model: Segmenter) -> Policy | None:
    """The policy network in a checkpoint of a model; None where its merge method needs none.

    Raises:
        UserError: for a checkpoint that was written without it.
    """
    merge = model.recipe.merge
    if merge is None or merge.policy_kind is None:
        return None
    policy = Policy(merge.policy_kind, model.shape.patch)
    own = {n.removeprefix(_SHARER): t for n, t in tensors.read(path).items() if n.startswith(_SHARER)}
    tensors.fill(policy, own, path)
    return policy.eval()


def load_backbone(model: Segmenter, name: str | None, file: Path | None) -> None:
    """Start the encoder from ImageNet weights of a timm ViT: a local file, else timm's hub by name.

    Raises:
        UserError: when neither can be had, or the weights do not fit the encoder.
    """
    if file is not None:
        found, where = tensors.read(file), file
    else:
        where = Path(str(name))
        try:
            found = create_model(str(name), pretrained=True).state_dict()
        except Exception as error:  # timm and its hub client raise many kinds
            logger.debug("fetching %s", name, exc_info=True)
            raise UserError(
                f"model.backbone {name!r} cannot be fetched ({first_line(error)}); give model.backbone_file"
            ) from None
    shape, encoder = model.shape, model.encoder
    own = encoder.state_dict()
    kept = {key: t.float() for key, t in found.items() if not key.startswith(("head", "fc_norm", "pre_logits"))}
    if "pos_embed" in kept and kept["pos_embed"].shape != own["pos_embed"].shape:
        there, width = kept["pos_embed"].shape, own["pos_embed"].shape[2]
        patches = there[1] - shape.prefix if len(there) == 3 and (there[0], there[2]) == (1, width) else 0
        if patches < 1 or isqrt(patches) ** 2 != patches:
            raise UserError(
                f"{where}: tensor 'pos_embed' has shape {list(there)}; expected [1, {shape.prefix} + a square, {width}]"
            )
        kept["pos_embed"] = resample_abs_pos_embed(
            kept["pos_embed"], list(shape.grid()), None, shape.prefix, interpolation="bilinear", antialias=False
        )
    tensors.fill(encoder, kept, where)
