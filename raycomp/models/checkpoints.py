"""Read and write weights: our own safetensors, official Segmenter checkpoints, timm backbones.

Only tensors are ever read (`weights_only`, safetensors); a pickle that would run code is refused.
"""

import hashlib
import pickle
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from raycomp.config import explain
from raycomp.errors import UserError, nearest
from raycomp.files import written
from raycomp.models._timm import create_model, resample_abs_pos_embed
from raycomp.models.policy import Policy
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Cts, Recipe, dense
from raycomp.sections import SpaceConfig
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
    tensors = {name: t.to(dtype) for name, t in model.state_dict().items()}
    header = {
        **(metadata or {}),
        "format": _FORMAT,
        "shape": model.shape.model_dump_json(),
        "recipe": model.recipe.canonical_json(),
    }
    _write(tensors, path, header)


def elastic_space(path: Path) -> SpaceConfig:
    """The space of recipes that an elastic model was trained over.

    Raises:
        UserError: for a model that is not elastic.
    """
    text = metadata(path).get(ELASTIC)
    if text is None:
        raise UserError(f"{path}: not an elastic model; jobs/train.py --elastic makes one of a dense one")
    return SpaceConfig.model_validate_json(text)


def _write(tensors: Mapping[str, Tensor], path: AnyPath, header: dict[str, str]) -> None:
    with written(path) as temporary:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, header)


def load(path: Path, expected: ModelShape | None = None) -> Segmenter:
    """Read a Segmenter in float32: ours (`.safetensors`) or official (`checkpoint.pth` beside `variant.yml`).

    The `.state` of a dense training under way will do, too, where its shape is given.

    Raises:
        UserError: for a truncated file, or weights that do not fit `expected`.
    """
    if path.suffix == STATE and expected is not None:
        return _load_state(path, expected).eval()
    model = _load_official(path) if path.suffix in (".pth", ".pt") else _load_own(path)
    if expected is not None and expected != model.shape:
        ours, theirs = expected.model_dump(), model.shape.model_dump()
        field = next(name for name in ours if ours[name] != theirs[name])
        raise UserError(
            f"{path}: checkpoint has {field} {theirs[field]}, the search space model.shape.{field} {ours[field]}"
        )
    return model.eval()


def metadata(path: Path) -> dict[str, str]:
    """The header of one of our checkpoints."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({_first_line(error)})") from None


def _load_own(path: Path) -> Segmenter:
    header = metadata(path)
    if header.get("format") != _FORMAT:
        raise UserError(
            f"{path}: field 'format' is {header.get('format')!r}, not {_FORMAT!r}: not a raycomp checkpoint"
        )
    try:
        shape = ModelShape.model_validate_json(header["shape"])
        recipe = Recipe.model_validate_json(header["recipe"])
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, ModelShape)}") from None
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if not name.startswith(_SHARER)]  # noqa: SIM118  not a mapping
        tensors = {name: file.get_tensor(name).float() for name in names}
    return _filled(Segmenter(shape, recipe), tensors, path)


def _load_official(path: Path) -> Segmenter:
    """An official Segmenter run: `checkpoint.pth` with `variant.yml` beside it (REFERENCE 3)."""
    variant = path.with_name("variant.yml")
    try:
        net = yaml.load(variant.read_text(), Loader=_VariantLoader)["net_kwargs"]  # noqa: S506  a SafeLoader
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(
            f"{variant}: cannot read net_kwargs, which describe {path.name} ({_first_line(error)})"
        ) from None
    tensors = _read_pickled(path, key="model")
    try:
        decoder = net["decoder"]["name"]
        shape = ModelShape(
            width=net["d_model"],
            heads=net["n_heads"],
            depth=net["n_layers"],
            patch=net["patch_size"],
            image=tuple(net["image_size"]),
            classes=net["n_cls"],
            prefix=2 if net.get("distilled") else 1,
            decoder="linear" if decoder == "linear" else "mask",
            decoder_depth=0 if decoder == "linear" else net["decoder"]["n_layers"],
            norm_eps=1e-5,
            normalization=net["normalization"],
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{variant}: field net_kwargs.{_first_line(error)} is missing or malformed") from None
    except ValidationError as error:
        raise UserError(f"{variant}: {explain(error, ModelShape)}") from None
    heads = ("encoder.head.", "encoder.head_dist.")  # ImageNet classifiers, unused in segmentation
    kept = {name: t.float() for name, t in tensors.items() if not name.startswith(heads)}
    return _filled(Segmenter(shape, dense(shape)), kept, path)


def _load_state(path: Path, shape: ModelShape) -> Segmenter:
    """The weights of a dense training under way: the averaged ones where it averages."""
    held = _unpickled(path)
    if not isinstance(held, dict) or "model" not in held:
        raise UserError(f"{path}: not the state of a training")
    averaged = {n: t for n, t in held.get("average", {}).items() if n.startswith("module.")}
    tensors = {n.removeprefix("module."): t for n, t in averaged.items()} or held["model"]
    return _filled(Segmenter(shape, dense(shape)), tensors, path)


def save_policy(policy: Policy, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a policy network with its kind and patch side, whole or not at all."""
    header = {**metadata, "format": _POLICY_FORMAT, "kind": policy.kind, "patch": str(policy.patch)}
    _write(policy.state_dict(), path, header)


def load_policy(path: Path, shape: ModelShape) -> Policy:
    """Read a policy network for a model of this shape.

    Raises:
        UserError: for a file that is no policy, or one for patches of another size.
    """
    header = metadata(path)
    if header.get("format") != _POLICY_FORMAT:
        raise UserError(f"{path}: field 'format' is {header.get('format')!r}, not {_POLICY_FORMAT!r}: not a policy")
    if int(header["patch"]) != shape.patch:
        raise UserError(f"{path}: the policy is for patches of {header['patch']} pixels, the model has {shape.patch}")
    policy = Policy(header["kind"], shape.patch)
    _fill(policy, _read_tensors(path), path)
    return policy.eval()


def load_sharing_policy(path: Path, model: Segmenter) -> Policy:
    """The policy network in a checkpoint of a model that shares tokens (CTS).

    Raises:
        UserError: for a checkpoint that was written without it.
    """
    assert isinstance(model.recipe.merge, Cts)
    policy = Policy(model.recipe.merge.policy, model.shape.patch)
    tensors = {n.removeprefix(_SHARER): t for n, t in _read_tensors(path).items() if n.startswith(_SHARER)}
    _fill(policy, tensors, path)
    return policy.eval()


def load_backbone(model: Segmenter, name: str | None, file: Path | None) -> None:
    """Start the encoder from ImageNet weights of a timm ViT: a local file, else timm's hub by name.

    Raises:
        UserError: when neither can be had, or the weights do not fit the encoder.
    """
    if file is not None:
        tensors, where = _read_tensors(file), file
    else:
        where = Path(str(name))
        try:
            tensors = create_model(str(name), pretrained=True).state_dict()
        except Exception as error:  # timm and its hub client raise many kinds
            raise UserError(
                f"model.backbone {name!r} cannot be fetched ({_first_line(error)}); give model.backbone_file"
            ) from None
    shape, encoder = model.shape, model.encoder
    own = encoder.state_dict()
    kept = {key: t.float() for key, t in tensors.items() if not key.startswith(("head", "fc_norm", "pre_logits"))}
    if "pos_embed" in kept and kept["pos_embed"].shape != own["pos_embed"].shape:
        kept["pos_embed"] = resample_abs_pos_embed(
            kept["pos_embed"], list(shape.grid()), None, shape.prefix, interpolation="bilinear", antialias=False
        )
    _fill(encoder, kept, where)


class _VariantLoader(yaml.SafeLoader):
    """Safe YAML plus the one Python tag that official variant.yml files have."""


def _construct_tuple(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> tuple[object, ...]:
    return tuple(loader.construct_sequence(node))


_VariantLoader.add_constructor("tag:yaml.org,2002:python/tuple", _construct_tuple)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        return _read_pickled(path, key="model")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({_first_line(error)})") from None


def _unpickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path}: refused: it holds Python objects besides tensors, or is not a checkpoint") from None
    except (OSError, RuntimeError, EOFError) as error:
        raise UserError(f"{path}: not a readable checkpoint ({_first_line(error)})") from None


def _read_pickled(path: Path, key: str) -> dict[str, Tensor]:
    data = _unpickled(path)
    tensors = data.get(key, data) if isinstance(data, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise UserError(f"{path}: has no {key!r} dictionary of tensors")
    return tensors


def _filled(model: Segmenter, tensors: Mapping[str, Tensor], path: Path) -> Segmenter:
    _fill(model, tensors, path)
    return model


def _fill(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    own = module.state_dict()
    for name in own:
        if name not in tensors:
            raise UserError(f"{path}: tensor {name!r} is missing; {nearest(name, tensors)}")
        if tensors[name].shape != own[name].shape:
            raise UserError(
                f"{path}: tensor {name!r} has shape {list(tensors[name].shape)}, the model {list(own[name].shape)}"
            )
    for name in tensors:
        if name not in own:
            raise UserError(f"{path}: unexpected tensor {name!r}; {nearest(name, own)}")
    module.load_state_dict(dict(tensors))


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].strip("'\"")
