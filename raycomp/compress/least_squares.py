# SPDX-License-Identifier: Apache-2.0
"""Ridge regression of linear layers towards their current weights, in float64.

Legend: B images, N tokens, D inputs, E outputs.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

RIDGE = 1e-2  # relative to the inputs' mean second moment; damps directions that calibration hardly covers


def correction(x: Tensor, error: Tensor) -> Tensor:
    """Return the change (D, E) of a linear map that reduces its error on calibration inputs.

    The change is (X'X + ridge I)^-1 X'R, in float64.

    Args:
        x: inputs X (n, D), centred.
        error: what the outputs lack, R (n, E), centred.
    """
    x = x.double()
    moments: Tensor = x.T @ x
    moments.diagonal().add_(RIDGE * moments.diagonal().mean())
    return torch.linalg.solve(moments, x.T @ error.double())


def refit(layer: nn.Linear, run: Callable[[], object], target: Tensor) -> None:
    """Refit a linear layer's weight and bias so that its output approximates `target` (B, N, E).

    Args:
        run: calls the layer once, with the inputs of `target`.
    """
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    run()
    hook.remove()
    x = seen[0].flatten(0, -2)
    error = (target.flatten(0, -2) - layer(x)).double()
    mean, offset = x.double().mean(0), error.mean(0)
    change = correction(x - mean, error - offset)
    layer.weight.add_(change.T)
    layer.bias.add_(offset - mean @ change)
