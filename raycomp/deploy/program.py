# SPDX-License-Identifier: Apache-2.0
"""Move a torch.export program to another device, because its graph names the device it was traced on."""

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule

from raycomp.errors import UserError


def moved(program: ExportedProgram, device: torch.device) -> ExportedProgram:
    """Move weights, constants and graph of a program to a device; the given program changes, too.

    torch's pass does not change the device of autocast regions, and older versions skip the nodes inside them.

    Raises:
        UserError: if this torch cannot move programs.
    """
    try:
        from torch.export.passes import move_to_device_pass
    except ImportError:
        raise UserError(
            f"--device {device}: torch {torch.__version__} cannot move a .pt2 program from the CPU, torch 2.7 can; "
            "the .safetensors file runs on both"
        ) from None
    program = move_to_device_pass(program, device)
    for module in program.graph_module.modules():
        if isinstance(module, GraphModule):
            for node in module.graph.nodes:
                if "device" in node.kwargs:
                    node.kwargs = {**node.kwargs, "device": device}
                if node.target is torch.ops.higher_order.wrap_with_autocast:
                    node.args = (device.type, *node.args[1:])
            module.recompile()
    return program
