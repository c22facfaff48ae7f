"""Move a torch.export program to another device: the graph names the device that it was traced on."""

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule

from raycomp.errors import UserError


def moved(program: ExportedProgram, device: torch.device) -> ExportedProgram:
    """The program with its weights, constants and graph on a device; the program given is changed, too.

    torch's pass leaves the device of autocast regions as it is, and older ones all that lies within such a region.

    Raises:
        UserError: where this torch cannot move programs.
    """
    try:
        from torch.export.passes import move_to_device_pass
    except ImportError:
        raise UserError(
            f"--device {device}: torch {torch.__version__} cannot move a .pt2 program from the CPU, torch 2.7 can; "
            "the .safetensors runs on both"
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
