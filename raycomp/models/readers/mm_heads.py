# SPDX-License-Identifier: Apache-2.0
"""Translate the convolutional heads of mmsegmentation: DPTHead, UPerHead behind MultiLevelNeck, and SETRUPHead.

The modules in `raycomp.models.heads` have tables of the tensor names. `readers.heads` translates linear heads and mask
transformers.
"""

from functools import partial

from torch import Tensor

from raycomp.errors import UserError
from raycomp.models.readers.heads import Head, convolution, linear_head, mask_head, split_readout
from raycomp.models.readers.ledger import Ledger
from raycomp.models.readers.settings import MmBackbone, MmHead, MmModel, MmNeck

_HEAD = "decode_head"
_DPT, _UPERNET = f"{_HEAD}.reassemble_blocks.projects.0.conv.weight", f"{_HEAD}.fpn_bottleneck.conv.weight"


def reads_several(ledger: Ledger) -> bool:
    """Return True if the head reads several blocks."""
    return _DPT in ledger or _UPERNET in ledger


def take_head(model: MmModel, ledger: Ledger, width: int) -> Head | None:
    """Take the head of a model.

    Args:
        model: Section `model` of the configuration; all defaults without a configuration.

    Raises:
        UserError: naming the tensor or the setting that does not fit.
    """
    config = model.decode_head
    if _DPT in ledger:
        return _dpt(model, ledger)
    if _UPERNET in ledger:
        return _upernet(model, ledger)
    if f"{_HEAD}.up_convs.0.0.conv.weight" in ledger:
        return _pup(config, ledger)
    if f"{_HEAD}.cls_emb" in ledger:
        ledger.leave({rf"{_HEAD}\.conv_seg\..*": "unused layer of the mask transformer"})
        return mask_head(ledger, width, config.num_heads)
    return linear_head(ledger, [f"{_HEAD}.conv_seg"], width, f"{_HEAD}.bn")


def _taps(model: MmModel, ledger: Ledger) -> dict[str, object]:
    """Return the fields of the taps, which only the configuration states."""
    backbone, order = model.backbone or MmBackbone(), model.decode_head.in_index
    if not isinstance(backbone.out_indices, list) or order not in (-1, [0, 1, 2, 3]):
        raise UserError(
            f"{ledger.path}: its configuration has backbone.out_indices {backbone.out_indices} and "
            f"decode_head.in_index {order}; expected a list of the four blocks that the head reads, and [0, 1, 2, 3]"
        )
    taps = [index + 1 for index in backbone.out_indices]
    return {"taps": taps, "tap_norm": "last" if backbone.final_norm else "none", "decoder_depth": 0}


def _module(ledger: Ledger, out: dict[str, Tensor], target: str, source: str) -> None:
    """Take a ConvModule of mmcv: a convolution and its optional batch norm."""
    convolution(ledger, out, target, f"{source}.conv", f"{source}.bn")


def _head(out: dict[str, Tensor], last: str, fields: dict[str, object]) -> Head:
    """Return a head; its classes and width are those of the classifier and of the layer `last`."""
    sizes = {"classes": len(out["decoder.classifier.bias"]), "decoder_width": len(out[f"decoder.{last}.bias"])}
    return Head(fields | sizes, out)


def _dpt(model: MmModel, ledger: Ledger) -> Head:
    out: dict[str, Tensor] = {}
    take, module = partial(convolution, ledger, out), partial(_module, ledger, out)
    blocks, readout = f"{_HEAD}.reassemble_blocks", model.decode_head.readout_type
    for tap in range(4):
        if readout == "project":
            split_readout(ledger, out, tap, f"{blocks}.readout_projects.{tap}.0")
        module(f"reassemble.{tap}.project", f"{blocks}.projects.{tap}")
        if tap != 2:
            take(f"reassemble.{tap}.resize", f"{blocks}.resize_layers.{tap}")
        module(f"convs.{tap}", f"{_HEAD}.convs.{tap}")
        for unit in (1, 2) if tap else (2,):
            for n in (1, 2):
                module(f"fusion.{tap}.unit{unit}.conv{n}", f"{_HEAD}.fusion_blocks.{tap}.res_conv_unit{unit}.conv{n}")
        module(f"fusion.{tap}.project", f"{_HEAD}.fusion_blocks.{tap}.project")
    module("project", f"{_HEAD}.project")
    take("classifier", f"{_HEAD}.conv_seg")
    widths = [len(out[f"decoder.reassemble.{tap}.project.bias"]) for tap in range(4)]
    fields = {"decoder": "dpt", "readout": readout, "tap_widths": widths, **_taps(model, ledger)}
    return _head(out, "project", fields)


def _upernet(model: MmModel, ledger: Ledger) -> Head:
    scales, pools = (model.neck or MmNeck()).scales, model.decode_head.pool_scales
    if scales != MmNeck().scales or pools != MmHead().pool_scales:
        raise UserError(
            f"{ledger.path}: its configuration has neck.scales {scales} and decode_head.pool_scales {pools}; "
            f"raycomp's UperNet supports {MmNeck().scales} and {MmHead().pool_scales}"
        )
    if "neck.convs.0.conv.weight" not in ledger:
        raise UserError(
            f"{ledger.path}: tensor 'neck.convs.0.conv.weight' is missing: UPerHead on a plain ViT needs MultiLevelNeck"
        )
    out: dict[str, Tensor] = {}
    module = partial(_module, ledger, out)
    for level in range(4):
        module(f"neck.lateral.{level}", f"neck.lateral_convs.{level}")
        module(f"neck.convs.{level}", f"neck.convs.{level}")
        module(f"pool.{level}", f"{_HEAD}.psp_modules.{level}.1")
        if level < 3:
            module(f"lateral.{level}", f"{_HEAD}.lateral_convs.{level}")
            module(f"pyramid.{level}", f"{_HEAD}.fpn_convs.{level}")
    module("bottleneck", f"{_HEAD}.bottleneck")
    module("fusion", f"{_HEAD}.fpn_bottleneck")
    convolution(ledger, out, "classifier", f"{_HEAD}.conv_seg")
    widths = [len(out[f"decoder.neck.convs.{level}.bias"]) for level in range(4)]
    return _head(out, "fusion", {"decoder": "upernet", "tap_widths": widths, **_taps(model, ledger)})


def _pup(config: MmHead, ledger: Ledger) -> Head:
    count = len(ledger.names(rf"{_HEAD}\.up_convs\.\d+\.0\.conv\.weight"))
    scale, kernel = config.up_scale, ledger.size(f"{_HEAD}.up_convs.0.0.conv.weight", 4)[-1]
    if (count, scale, kernel) != (4, 2, 3):
        raise UserError(
            f"{ledger.path}: SETRUPHead has {count} convolutions of {kernel}x{kernel} and upsamples by {scale} after "
            "each; expected 4 of 3x3 and upsampling by 2 (SETR-PUP)"
        )
    out: dict[str, Tensor] = {}
    for index in range(count):
        _module(ledger, out, f"convs.{index}", f"{_HEAD}.up_convs.{index}.0")
    convolution(ledger, out, "classifier", f"{_HEAD}.conv_seg")
    return _head(out, "convs.3", {"decoder": "pup", "decoder_depth": 0})
