# SPDX-License-Identifier: Apache-2.0
"""Read EoMT's official checkpoints (Kerssies et al., CVPR 2025): timm's encoder in `encoder.backbone`, and a head.

Head tensors get the names of transformers. The model normalises pixels itself; their mean and std are in the file.
"""

import re

from raycomp.models.readers.assemble import translated
from raycomp.models.readers.hf_heads import eomt_head
from raycomp.models.readers.ledger import Ledger
from raycomp.models.readers.source import DINOV3_ROPE_BASE, Facts, Source, Translation, normalization_of

_NAMES = (
    (r"encoder\.backbone\.", ""),
    (r"q\.weight", "query.weight"),
    (r"class_head\.", "class_predictor."),
    (r"mask_head\.0\.", "mask_head.fc1."),
    (r"mask_head\.2\.", "mask_head.fc2."),
    (r"mask_head\.4\.", "mask_head.fc3."),
    (r"upscale\.(\d+)\.norm\.", r"upscale_block.block.\1.layernorm2d."),
    (r"upscale\.(\d+)\.", r"upscale_block.block.\1."),
)


def _renamed(name: str) -> str:
    name = re.sub(r"^(network|model|module)\.", "", name)
    for pattern, replacement in _NAMES:
        name = re.sub(f"^{pattern}", replacement, name)
    return name


def matches(source: Source) -> bool:
    """Return True for an EoMT with the tensor names of its official code."""
    return {"attn_mask_probs", "query.weight", "blocks.0.attn.qkv.weight"} <= {
        _renamed(name) for name in source.tensors
    }


def read(source: Source) -> Translation:
    """Translate a model.

    Raises:
        UserError: naming the tensor or the setting that does not fit.
    """
    ledger = Ledger(source.tensors, source.path, _renamed)
    mean, std = (ledger.get(f"encoder.pixel_{part}") for part in ("mean", "std"))
    dinov3 = "pos_embed" not in ledger
    pixels = None if mean is None or std is None else (mean.flatten().tolist(), std.flatten().tolist())
    facts = Facts(
        norm_eps=1e-5 if dinov3 else 1e-6,
        rope_base=DINOV3_ROPE_BASE if dinov3 else None,
        normalization=None if pixels is None else normalization_of(*pixels, str(source.path)),
    )
    ledger.infer("LayerNorm epsilon as in DINOv3" if dinov3 else "LayerNorm epsilon as in DINOv2")
    return translated(source, ledger, facts, "EoMT", eomt_head)
