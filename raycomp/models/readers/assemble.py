# SPDX-License-Identifier: Apache-2.0
"""Join a translated encoder and its head, and check that every tensor of the file is accounted for."""

from collections.abc import Callable

from raycomp.errors import UserError
from raycomp.models.readers.heads import Head
from raycomp.models.readers.ledger import Ledger
from raycomp.models.readers.source import Facts, Forward, Source, Translation, validated
from raycomp.models.readers.vit import encoder, stated_heads

_NO_HEAD: dict[str, object] = {"classes": 2, "decoder": "linear", "decoder_depth": 0}  # only to complete the shape


def translated(
    source: Source,
    ledger: Ledger,
    facts: Facts,
    family: str,
    take_head: Callable[[Ledger, int], Head | None] = lambda _ledger, _width: None,
    original: Callable[[], Forward] | None = None,
) -> Translation:
    """Translate the tensors of a ledger, whose names are timm's.

    Args:
        family: Name of the model family, as users read it.
        take_head: Takes the head from the ledger, for features of the given width; returns None if the file has none.
        original: Builds the original model.

    Raises:
        UserError: naming the tensor or the setting that does not fit.
    """
    width = ledger.size("patch_embed.proj.weight", 4)[0]
    heads_stated = stated_heads(ledger, width, facts) is not None
    fields, encoder_tensors = encoder(ledger, facts, source.user)
    head = take_head(ledger, width)
    ledger.close(family)
    normalization = facts.normalization or source.user.normalization
    if normalization is None:
        raise UserError(
            f"{ledger.path}: does not state the pixel mean and std of its training; give --normalization vit (0.5), "
            "deit (ImageNet's) or clip"
        )
    fields |= {**(_NO_HEAD if head is None else head.fields), "normalization": normalization}
    tensors = {f"encoder.{name}": tensor for name, tensor in encoder_tensors.items()}
    return Translation(
        family=family,
        shape=validated(fields, ledger.path),
        tensors=tensors | ({} if head is None else head.tensors),
        has_head=head is not None,
        heads_stated=heads_stated,
        normalization_stated=facts.normalization is not None,
        folded=tuple(ledger.folded),
        left=tuple(ledger.left),
        inferred=tuple(ledger.inferred),
        original=original,
    )
