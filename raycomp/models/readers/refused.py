# SPDX-License-Identifier: Apache-2.0
"""Model families that are not plain ViTs, recognised by their tensor names, and why raycomp does not support them."""

import re
from collections.abc import Collection

_REASONS = (
    (
        r"(segformer\.|backbone\.)?(encoder\.)?(patch_embed1\.|patch_embeddings\.0\.)",
        "SegFormer",
        "a hierarchy of stages",
    ),
    (
        r".*layers\.\d+\.blocks\.\d+\..*relative_position_bias_table",
        "Swin",
        "window attention in a hierarchy of stages",
    ),
    (r".*(stages|layers)\.\d+\.blocks\.\d+\.(attn\.w_msa|norm1|attn\.relative)", "Swin", "window attention"),
    (r".*\.attn\.rel_pos_h", "SAM", "window attention with relative positions"),
    (r".*(relative_position_bias|rel_pos_bias)", "BEiT", "a relative position bias in its attention"),
    (r".*(spm\.|interactions\.\d+\.)", "ViT-Adapter", "convolutions beside the blocks"),
    (r".*(pixel_decoder|pixel_level_module)\.", "Mask2Former", "deformable attention over a hierarchy"),
    (r"(.*\.)?blocks\.\d+\.(mlp\.norm|attn\.norm|attn\.q_proj)\.", "EVA", "norms inside its attention or MLP"),
    (r".*(conv_dw|dwconv|depthwise_conv)\.", "a convolutional network", "no attention over all tokens"),
)


def reason(keys: Collection[str]) -> str | None:
    """Return the unsupported family that has these tensors and why it is refused; None if there is no match."""
    for pattern, family, why in _REASONS:
        if any(re.match(pattern, key) for key in keys):
            return f"{family} is not supported: it has {why}; raycomp compresses plain ViTs"
    return None
