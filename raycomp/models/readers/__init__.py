# SPDX-License-Identifier: Apache-2.0
"""Readers translate checkpoints of other frameworks into raycomp models exactly, one module per source."""

from types import ModuleType

from raycomp.errors import UserError
from raycomp.models.readers import dino, eomt_official, hf, mmseg, official, own, timm
from raycomp.models.readers.refused import reason
from raycomp.models.readers.source import Source, Translation, UserFacts, open_source

READERS: tuple[ModuleType, ...] = (own, official, mmseg, hf, eomt_official, dino, timm)
"""Each has `matches(source)` and `read(source)`; the first that matches reads the source."""

__all__ = ["READERS", "UserFacts", "Source", "Translation", "open_source", "read"]


def read(source: Source) -> Translation:
    """Translate a source with the reader of its model family.

    Raises:
        UserError: if no family matches, or naming the tensor or the setting that does not fit.
    """
    if (why := reason(source.tensors)) is not None:
        raise UserError(f"{source.path}: {why}")
    for reader in READERS:
        if reader.matches(source):
            translation: Translation = reader.read(source)
            return translation
    names = ", ".join(list(source.tensors)[:3]) or "none"
    raise UserError(
        f"{source.path}: no known model family has the tensors {names}, ...; `raycomp import --names` prints all, "
        "and --map gives them raycomp's names"
    )
