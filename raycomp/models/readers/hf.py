# SPDX-License-Identifier: Apache-2.0
"""Read files of transformers: ViT, DeiT, DINOv2 (with or without registers) and DINOv3; `hf_heads` reads the heads.

Tensor names may be those in files or those of models in memory. Settings come from `config.json` and
`preprocessor_config.json` in the same folder.
"""

import re
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from raycomp.errors import UserError, nearest
from raycomp.models.readers.assemble import translated
from raycomp.models.readers.hf_heads import original_of, take_head
from raycomp.models.readers.ledger import Ledger
from raycomp.models.readers.settings import HfConfig, both, checked
from raycomp.models.readers.source import Facts, Forward, Source, Translation, normalization_of

_PREFIX = r"(?:(?:vit|deit|dinov2|dinov2_with_registers|dinov3_vit|dinov3|dpt|backbone|encoder|model)\.)?"
_BLOCK = r"(?:encoder\.layer|model\.layer|encoder\.layers|layers|layer)\.(\d+)\."
_STEM = {
    "embeddings.cls_token": "cls_token",
    "embeddings.distillation_token": "dist_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.position_embeddings.weight": "pos_embed",
    "embeddings.mask_token": "mask_token",
}
_PARTS = {
    r"attention\.attention\.query|attention\.q_proj": "attn.q",
    r"attention\.attention\.key|attention\.k_proj": "attn.k",
    r"attention\.attention\.value|attention\.v_proj": "attn.v",
    r"attention\.output\.dense|attention\.o_proj|attention\.out_proj": "attn.proj",
    r"layernorm_before|norm1": "norm1",
    r"layernorm_after|norm2": "norm2",
    r"intermediate\.dense|mlp\.fc1|mlp\.up_proj|mlp\.weights_in": "mlp.fc1",
    r"output\.dense|mlp\.fc2|mlp\.down_proj|mlp\.weights_out": "mlp.fc2",
    r"mlp\.gate_proj": "mlp.gate",
}
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "swiglu",  # only with a gate
}
_EPSILON = {"vit": 1e-12, "deit": 1e-12, "dpt": 1e-12, "dinov3_vit": 1e-5, "eomt_dinov3": 1e-5}
_IMAGENET = ("dinov2", "dinov2_with_registers", "dinov3_vit", "deit", "eomt", "eomt_dinov3")
_MODEL_TYPES = ("vit", *_IMAGENET, "dpt", "upernet")
_TASKS = ("EomtForUniversalSegmentation", "EomtDinov3ForUniversalSegmentation", "DPTForSemanticSegmentation")


def encoder_name(name: str) -> str:
    """Return timm's name of an encoder tensor, and any other name unchanged."""
    short = re.sub(f"^{_PREFIX}(?=embeddings\\.|{_BLOCK}|layernorm\\.|norm\\.)", "", name)
    if short in _STEM:
        return _STEM[short]
    short = re.sub(r"^embeddings\.patch_embeddings\.(projection\.)?(?=weight|bias)", "patch_embed.proj.", short)
    short = re.sub(r"^layernorm\.", "norm.", short)
    block = re.match(_BLOCK, short)
    if block is None:
        return short
    rest = short[block.end() :]
    rest = re.sub(r"^layer_scale([12])\.lambda1$", r"ls\1.gamma", rest)
    for pattern, part in _PARTS.items():
        rest = re.sub(rf"^(?:{pattern})\.(?=weight$|bias$)", f"{part}.", rest)
    return f"blocks.{block[1]}.{rest}"


def matches(source: Source) -> bool:
    """Return True for a ViT with the tensor names of transformers."""
    names = {encoder_name(name) for name in source.tensors}
    return {"blocks.0.attn.q.weight", "patch_embed.proj.weight"} <= names


def read(source: Source) -> Translation:
    """Translate a model.

    Raises:
        UserError: naming the tensor or the setting that does not fit.
    """
    table = "embeddings.position_embeddings.weight"  # nn.Embedding (N, E) instead of (1, N, E)
    tensors = {name: t[None] if name.endswith(table) else t for name, t in source.tensors.items()}
    ledger = Ledger(tensors, source.path, encoder_name)
    config = checked(HfConfig, source.config, str(source.path.with_name("config.json")))
    kind = config.model_type
    if kind is not None and kind not in _MODEL_TYPES:
        raise UserError(f"{source.path}: config.json has model_type {kind!r}: {nearest(kind, _MODEL_TYPES)}")
    task = next((name for name in _TASKS if name in (config.architectures or ())), None)
    original = partial(_features, source) if task is None else partial(original_of, source, task)
    return translated(
        source,
        ledger,
        _facts(source, ledger, config),
        kind or "ViT of transformers",
        partial(take_head, config),
        original if source.config else None,
    )


def _facts(source: Source, ledger: Ledger, config: HfConfig) -> Facts:
    """Return what `config.json` states about the encoder."""
    kind, processor, act = config.model_type or "", source.processor, config.hidden_act
    normalization = normalization_of(processor.get("image_mean"), processor.get("image_std"), str(source.path))
    if normalization is None and kind in _IMAGENET:
        ledger.infer(f"ImageNet's mean and std, as in every {kind}")
        normalization = "deit"
    if act is not None and act not in _ACTIVATIONS:
        where = f"{source.path.with_name('config.json')}: field 'hidden_act'"
        raise UserError(f"{where} is {act!r}: {nearest(act, _ACTIVATIONS)}")
    patch = both(config.patch_size)
    stated = {
        "width": ("hidden_size", config.hidden_size),
        "depth": ("num_hidden_layers", config.num_hidden_layers),
        "patch": ("patch_size", patch[0] if patch else None),
    }
    return Facts(
        heads=config.num_attention_heads,
        image=both(config.image_size),
        positioned="none" if kind.startswith("eomt") else "class",
        norm_eps=config.layer_norm_eps or _EPSILON.get(kind),
        activation="swiglu" if config.use_swiglu_ffn else _ACTIVATIONS.get(str(act)),
        normalization=normalization,
        rope_base=None if "pos_embed" in ledger else config.rope_base,
        declared={field: (key, value) for field, (key, value) in stated.items() if value is not None},
    )


def _features(source: Source) -> Forward:
    """Build the encoder with transformers; its features include the final norm."""
    from transformers import AutoModel

    model = in_folder(source, AutoModel)
    return lambda images: model(images).last_hidden_state


def in_folder(source: Source, builder: Any) -> Any:
    """Build a transformers model from a temporary folder with the file names that transformers expects."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        suffix = "model.safetensors" if source.path.suffix == ".safetensors" else "pytorch_model.bin"
        (Path(folder) / suffix).symlink_to(source.path.resolve())
        (Path(folder) / "config.json").symlink_to(source.path.with_name("config.json").resolve())
        return builder.from_pretrained(folder, local_files_only=True, dtype="float32").eval()
