# SPDX-License-Identifier: Apache-2.0
"""Translate heads of transformers: EoMT, DPT, and linear heads.

The modules in `raycomp.models.heads` have tables of the tensor names.
"""

from functools import partial
from typing import Any

from torch import Tensor

from raycomp.errors import UserError
from raycomp.models.readers.heads import Head, convolution, linear_head, split_readout
from raycomp.models.readers.ledger import Ledger
from raycomp.models.readers.settings import HfConfig
from raycomp.models.readers.source import Forward, Source

_LINEAR = ("classifier.classifier", "classifier", "head", "decode_head", "segmentation_head", "linear_head")


def take_head(config: HfConfig, ledger: Ledger, width: int) -> Head | None:
    """Take the head of a model; image classifiers are left.

    Raises:
        UserError: naming the tensor or the setting that does not fit.
    """
    if "query.weight" in ledger:
        return eomt_head(ledger, width)
    if "neck.fusion_stage.layers.0.projection.weight" in ledger:
        return _dpt(config, ledger)
    if "decode_head.fpn_bottleneck.conv.weight" in ledger:
        raise UserError(
            f"{ledger.path}: UperNet of transformers is not supported, because all its levels have the patch grid; "
            "raycomp supports mmsegmentation's, with MultiLevelNeck"
        )
    if any("ImageClassification" in name for name in config.architectures or ()):
        ledger.leave({r"(cls_|distillation_)?classifier\..*": "image classifier"})
    return linear_head(ledger, _LINEAR, width)


def eomt_head(ledger: Ledger, width: int) -> Head:
    """Take EoMT's head (Kerssies et al., CVPR 2025), with the tensor names of transformers.

    Raises:
        UserError: if a tensor is missing or has another size, or if masked attention is still on.
    """
    out: dict[str, Tensor] = {}
    ledger.size("query.weight", 2)
    ledger.size("attn_mask_probs", 1)
    queries, probabilities = ledger.take("query.weight"), ledger.take("attn_mask_probs")
    if probabilities.max() > 0:
        raise UserError(
            f"{ledger.path}: tensor 'attn_mask_probs' is not zero: masked attention is still on, training unfinished"
        )
    names = {"class_head": "class_predictor"} | {f"mask_head.fc{n}": f"mask_head.fc{n}" for n in (1, 2, 3)}
    upscales = len(ledger.names(r"upscale_block\.block\.\d+\.conv1\.weight"))
    for index in range(upscales):
        parts = {"conv": "conv1", "depthwise": "conv2", "norm": "layernorm2d"}
        names |= {
            f"upscale.{index}.{target}": f"upscale_block.block.{index}.{source}" for target, source in parts.items()
        }
    for target, source in names.items():
        out[f"decoder.{target}.weight"] = ledger.take(f"{source}.weight")
        rows = out["decoder.class_head.weight"].shape[0] if target == "class_head" else width
        out[f"decoder.{target}.bias"] = ledger.bias(f"{source}.bias", rows)
    fields: dict[str, object] = {"decoder": "eomt", "decoder_depth": 0, "query_blocks": len(probabilities)}
    fields |= {"classes": len(out["decoder.class_head.bias"]) - 1, "queries": len(queries), "mask_upscales": upscales}
    return Head(fields, {"encoder.queries": queries[None], **out})


def _dpt(config: HfConfig, ledger: Ledger) -> Head:
    """Take DPT's head (Ranftl et al., ICCV 2021)."""
    expected = {"reassemble_factors": [4, 2, 1, 0.5], "neck_ignore_stages": [], "is_hybrid": False, "head_in_index": -1}
    for name, value in expected.items():
        if (actual := getattr(config, name)) is not None and actual != value:
            raise UserError(f"{ledger.path}: config.json has {name} {actual}; raycomp's DPT supports {value} only")
    if config.backbone_out_indices is None:
        raise UserError(f"{ledger.path}: config.json lacks backbone_out_indices, the blocks that DPT reads")
    ledger.leave({r"neck\.fusion_stage\.layers\.0\.residual_layer1\..*": "unused layer of DPT"})
    out: dict[str, Tensor] = {}
    take = partial(convolution, ledger, out)
    readout = config.readout_type
    stage = "neck.reassemble_stage"
    for tap in range(4):
        if readout == "project":
            split_readout(ledger, out, tap, f"{stage}.readout_projects.{tap}.0")
        take(f"reassemble.{tap}.project", f"{stage}.layers.{tap}.projection")
        if tap != 2:
            take(f"reassemble.{tap}.resize", f"{stage}.layers.{tap}.resize")
        take(f"convs.{tap}", f"neck.convs.{tap}")
        layer = f"neck.fusion_stage.layers.{tap}"
        for unit in (1, 2) if tap else (2,):
            for n in (1, 2):
                name = f"{layer}.residual_layer{unit}"
                take(f"fusion.{tap}.unit{unit}.conv{n}", f"{name}.convolution{n}", f"{name}.batch_norm{n}")
        take(f"fusion.{tap}.project", f"{layer}.projection")
    take("project", "head.head.0", "head.head.1")
    take("classifier", "head.head.4")
    widths = [len(out[f"decoder.reassemble.{tap}.project.bias"]) for tap in range(4)]
    fields: dict[str, object] = {"decoder": "dpt", "decoder_depth": 0, "readout": readout, "double_scores": True}
    fields |= {"taps": [tap + 1 for tap in config.backbone_out_indices], "tap_norm": "none", "tap_widths": widths}
    fields |= {"classes": len(out["decoder.classifier.bias"]), "decoder_width": len(out["decoder.project.bias"])}
    return Head(fields, out)


def original_of(source: Source, task: str) -> Forward:
    """Build a model with its head; `task` is its class in transformers."""
    import transformers

    from raycomp.models.readers.hf import in_folder

    model = in_folder(source, getattr(transformers, task))
    return partial(_semantic, model)


def _semantic(model: Any, images: Tensor) -> Tensor:
    """Return logits, or EoMT's semantic scores: masks at image size, weighted by the class probabilities of queries."""
    from torch.nn.functional import interpolate

    output = model(images)
    if not hasattr(output, "masks_queries_logits"):
        return output.logits
    masks = interpolate(output.masks_queries_logits, images.shape[-2:], mode="bilinear").sigmoid()
    classes = output.class_queries_logits.softmax(-1)[..., :-1]
    return (classes.transpose(1, 2) @ masks.flatten(2)).unflatten(2, images.shape[-2:])
