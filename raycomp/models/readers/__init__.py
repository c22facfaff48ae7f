# SPDX-License-Identifier: Apache-2.0
"""Readers translate the checkpoints of other frameworks into raycomp's models exactly; one module a source."""

from types import ModuleType

from raycomp.errors import UserError
from raycomp.models.readers import dino, eomt_official, hf, mmseg, official, own, timm
from raycomp.models.readers.refused import reason
from raycomp.models.readers.source import Given, Source, Translation, open_source

READERS: tuple[ModuleType, ...] = (own, official, mmseg, hf, eomt_official, dino, timm)
"""Each has `matches(source)` and `read(source)`; the first that matches reads."""

__all__ = ["READERS", "Given", "Source", "Translation", "open_source", "read"]


def read(source: Source) -> Translation:
    """Translate a source with the reader of its family.

    Raises:
        UserError: if no family matches, or if a tensor or a setting does not fit; one line that names it.
    """
    if (why := reason(source.tensors)) is not None:
        raise UserError(f"{source.path}: {why}")
    for reader in READERS:
        if reader.matches(source):
            found: Translation = reader.read(source)
            return found
    some = ", ".join(list(source.tensors)[:3]) or "none"
    raise UserError(
        f"{source.path}: the tensors ({some} ...) are of no family that raycomp takes; see `raycomp import --help`, "
        "and its --map for other names"
    )
