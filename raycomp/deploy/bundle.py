# SPDX-License-Identifier: Apache-2.0
"""A folder that holds all one deploys: models, facts, a program, a model card and checksums; written whole or not."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from raycomp.deploy.model import CARD_FIELD, ModelCard, parse_card
from raycomp.deploy.precision_facts import PrecisionFacts, parse_facts
from raycomp.errors import UserError, first_line
from raycomp.files import written
from raycomp.shape import ModelShape

FACTS, CARD, SUMS = "facts.json", "README.md", "SHA256SUMS"
PROGRAM = ("run.py", "resizing.py")
"""Programs of the folder, which run without raycomp and torch."""
_CACHE = "__pycache__"  # of a program that ran


class Facts(ModelCard):
    """What a program needs besides the models."""

    recipe: str
    """Id of the recipe."""
    models: tuple[str, ...]
    """Names of the ONNX files; `run.py` opens the first unless told otherwise."""


@dataclass(frozen=True)
class OnnxModel:
    """What an exported ONNX file says of itself."""

    name: str
    size: int
    """Bytes."""
    card: ModelCard
    shape: ModelShape
    """Shape of the dense model."""
    precision: PrecisionFacts


def read_model(path: Path) -> OnnxModel:
    """Read the metadata of an exported ONNX file."""
    import onnx  # optional

    held = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    card, shape = parse_card(held.get(CARD_FIELD), path), ModelShape.model_validate_json(held["shape"])
    return OnnxModel(path.name, path.stat().st_size, card, shape, parse_facts(held, path))


@contextmanager
def drafted(folder: Path, recipe: str) -> Iterator[Path]:
    """Yield a temporary folder that becomes `folder` if the block ends without an error.

    An earlier bundle of the same recipe is replaced; no other folder is.

    Raises:
        UserError: if `folder` is taken or cannot be written; it is unchanged then.
    """
    check_free(folder, recipe)
    draft, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{name}") for name in ("tmp", "old"))
    try:
        draft.mkdir(parents=True)
        yield draft
        if folder.is_dir():
            folder.rename(old)
        draft.rename(folder)
    except OSError as error:
        if old.is_dir() and not folder.exists():
            old.rename(folder)
        raise UserError(f"{folder}: not written: {first_line(error)}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_free(folder: Path, recipe: str) -> None:
    """Raise a UserError if a folder exists, unless it is empty or holds just a bundle of this recipe."""
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise UserError(f"--out {folder.parent}: {place} is a file; expected a folder")
    held = {path.name for path in folder.iterdir()} - {_CACHE} if folder.is_dir() else set()
    if not held:
        return
    if FACTS not in held or SUMS not in held:
        raise UserError(f"--out {folder.parent}: {folder} exists and is not a bundle; choose another folder")
    try:
        found = Facts.model_validate_json((folder / FACTS).read_bytes()).recipe
    except ValidationError:
        found = "unknown"
    if found != recipe:
        raise UserError(f"--out {folder.parent}: {folder} is a bundle of recipe {found}, not {recipe}")
    listed = {line.partition("  ")[2] for line in (folder / SUMS).read_text(encoding="utf-8").splitlines()}
    if others := sorted(held - listed - {SUMS}):
        raise UserError(f"--out {folder.parent}: {folder} also holds {others[0]}, which is not of the bundle; move it")


def complete(folder: Path, recipe: str, models: Sequence[OnnxModel], text: str) -> None:
    """Add to a folder of models the facts, the programs, the model card `text` and, last, the checksums of all."""
    facts = Facts(recipe=recipe, models=tuple(one.name for one in models), **models[0].card.model_dump())
    template = resources.files("raycomp.deploy") / "template"
    texts = {name: (template / name).read_text(encoding="utf-8") for name in PROGRAM}
    for name, content in {**texts, FACTS: facts.model_dump_json(indent=2) + "\n", CARD: text}.items():
        _write(folder / name, content)
    sums = (f"{checksum(path)}  {path.name}\n" for path in sorted(folder.iterdir()))
    _write(folder / SUMS, "".join(sums))


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    with written(path) as temporary:
        temporary.write_bytes(text.encode())  # the same line ends everywhere, for the checksums
