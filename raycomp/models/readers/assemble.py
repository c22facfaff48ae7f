# SPDX-License-Identifier: Apache-2.0
"""Put a translated encoder and its head together, and check that no tensor of the file is left over."""

from collections.abc import Callable

from raycomp.errors import UserError
from raycomp.models.readers.heads import Head
from raycomp.models.readers.ledger import Ledger
from raycomp.models.readers.source import Facts, Forward, Source, Translation, validated
from raycomp.models.readers.vit import encoder, told_heads

_NO_HEAD: dict[str, object] = {"classes": 2, "decoder": "linear", "decoder_depth": 0}  # for the shape alone


def translated(
    source: Source,
    ledger: Ledger,
    facts: Facts,
    family: str,
    take_head: Callable[[Ledger, int], Head | None] = lambda _ledger, _width: None,
    original: Callable[[], Forward] | None = None,
) -> Translation:
    """Translate a ledger in timm's names.

    Args:
        family: What the model is, for people.
        take_head: Takes the head from the ledger, for features of a width; returns None where the file has none.
        original: Builds the original model.

    Raises:
        UserError: naming the tensor or the setting that does not fit.
    """
    width = ledger.size("patch_embed.proj.weight", 4)[0]
    heads_told = told_heads(ledger, width, facts) is not None
    fields, held = encoder(ledger, facts, source.given)
    head = take_head(ledger, width)
    ledger.close(family)
    normalization = facts.normalization or source.given.normalization
    if normalization is None:
        raise UserError(
            f"{ledger.path}: it does not tell the pixel mean and std that it was trained with; give --normalization "
            "vit (0.5), deit (ImageNet's) or clip"
        )
    fields |= {**(_NO_HEAD if head is None else head.fields), "normalization": normalization}
    tensors = {f"encoder.{name}": tensor for name, tensor in held.items()} | ({} if head is None else head.tensors)
    return Translation(
        family=family,
        shape=validated(fields, ledger.path),
        tensors=tensors,
        has_head=head is not None,
        heads_told=heads_told,
        mean_told=facts.normalization is not None,
        folded=tuple(ledger.folded),
        left=tuple(ledger.left),
        inferred=tuple(ledger.inferred),
        original=original,
    )
