# SPDX-License-Identifier: Apache-2.0
"""Read the original files of DINOv2 (Oquab et al., 2023), with or without registers, and DINOv3 (Simeoni et al., 2025).

Tensor names are timm's, except those of registers, rotary periods and SwiGLU. A linear head may accompany an encoder
named `backbone`.
"""

import re

from raycomp.models.readers.assemble import translated
from raycomp.models.readers.ledger import Ledger
from raycomp.models.readers.source import Facts, Source, Translation
from raycomp.models.readers.timm import is_wrapped, linear_beside, prefix_of, without

_NAMES = (
    (r"(register|storage)_tokens", "reg_token"),
    (r"rope_embed\.periods", "rope.periods"),
    (r"(blocks\.\d+\.mlp)\.w12\.", r"\1.fc1."),  # gate and value in one linear map
    (r"(blocks\.\d+\.mlp)\.w1\.", r"\1.gate."),
    (r"(blocks\.\d+\.mlp)\.w2\.", r"\1.fc1."),
    (r"(blocks\.\d+\.mlp)\.w3\.", r"\1.fc2."),
)
_MARKERS = ("mask_token", "register_tokens", "storage_tokens", "rope_embed.periods")


def matches(source: Source) -> bool:
    """Return True for a ViT with the tensor names of the DINO repositories."""
    prefix = prefix_of(source.tensors)
    return prefix is not None and any(f"{prefix}{name}" in source.tensors for name in _MARKERS)


def read(source: Source) -> Translation:
    """Translate an encoder, and its linear head if it has one.

    Raises:
        UserError: naming the tensor or the setting that does not fit.
    """
    prefix = prefix_of(source.tensors) or ""
    ledger = Ledger(source.tensors, source.path, lambda name: _timm_name(without(prefix, name)))
    dinov3 = "rope.periods" in ledger
    facts = Facts(positioned="class", norm_eps=1e-5 if dinov3 else 1e-6, normalization="deit")
    family = "DINOv3" if dinov3 else "DINOv2"
    ledger.infer(f"LayerNorm epsilon and ImageNet's mean and std, as in every {family}")
    return translated(source, ledger, facts, family, linear_beside if is_wrapped(prefix) else lambda *_: None)


def _timm_name(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = re.sub(f"^{pattern}", replacement, name)
    return name
