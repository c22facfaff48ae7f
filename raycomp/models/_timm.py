# SPDX-License-Identifier: Apache-2.0
"""Import the parts of timm that raycomp uses; no other module imports timm.

torchvision, which timm imports, registers `nms` and `qnms` from a compiled library. When that
library does not fit the torch installed, importing torchvision fails with "operator
torchvision::nms does not exist". raycomp uses neither, so it is enough to declare
their signatures first. On a machine with matching builds nothing is declared.
"""

import importlib

from torch import library

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

try:
    importlib.import_module("torchvision")
except (RuntimeError, OSError):
    _operators = library.Library("torchvision", "DEF")  # kept alive: deleting it would undo the definitions
    for _name in ("nms", "qnms"):
        _operators.define(f"{_name}{_SIGNATURE}")
    importlib.import_module("torchvision")

from timm import __version__ as timm_version  # noqa: E402
from timm import create_model, get_pretrained_cfg, is_model, list_models  # noqa: E402
from timm.layers.drop import DropPath  # noqa: E402
from timm.layers.mlp import Mlp  # noqa: E402
from timm.layers.patch_embed import PatchEmbed  # noqa: E402
from timm.layers.pos_embed import resample_abs_pos_embed  # noqa: E402

__all__ = [
    "DropPath",
    "Mlp",
    "PatchEmbed",
    "create_model",
    "get_pretrained_cfg",
    "is_model",
    "list_models",
    "resample_abs_pos_embed",
    "timm_version",
]
