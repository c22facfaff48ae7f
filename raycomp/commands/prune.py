# SPDX-License-Identifier: Apache-2.0
"""`raycomp prune`: prune the dense model by NViT, to a share of GFLOPs or latency. torch is imported late."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from raycomp import config as configs
from raycomp.commands.inputs import Checkpoint, DataFolder, SpaceFile, check_suffix, check_writable
from raycomp.errors import UserError
from raycomp.flops import profile
from raycomp.recipe import dense
from raycomp.report import tables
from raycomp.settings.amounts import Amount

if TYPE_CHECKING:
    from raycomp.jobs.prune_by_nvit import Pruned

_GFLOPS_HELP = "Target as a share of the dense GFLOPs: 60%."


def prune_command(
    space: SpaceFile,
    out: Annotated[Path, typer.Option(help="Checkpoint to write (.safetensors), with the recipe beside it.")],
    to_gflops: Annotated[str | None, typer.Option("--gflops", help=_GFLOPS_HELP)] = None,
    to_latency: Annotated[str | None, typer.Option("--latency", help="Target as a share of the dense latency.")] = None,
    train_between: Annotated[int | None, typer.Option(help="Training steps after each round but the last.")] = None,
    weight: Annotated[float | None, typer.Option(help="eta: score per millisecond saved.")] = None,
    data: DataFolder = None,
    checkpoint: Checkpoint = None,
) -> None:
    """Prune the dense model by NViT to a target, and print the resulting widths."""
    if (to_gflops is None) == (to_latency is None):
        raise UserError("give either --gflops or --latency, for example --gflops 60%")
    check_suffix("--out", out, ".safetensors")
    check_writable("--out", out)
    config = configs.load(space, budget=to_gflops or to_latency)
    config = config.changed("data", root=data).changed("model", checkpoint=checkpoint)
    config = config.changed("nvit", latency_weight=weight, train_between={"steps": train_between})
    from raycomp.files import check_outputs
    from raycomp.jobs.prune_by_nvit import pruned
    from raycomp.models import checkpoints

    recipe_file = out.with_suffix(".yaml")
    check_outputs(f"--out {out}", [out, recipe_file], [space, checkpoints.locate(config.model.checkpoint)])
    share, by_latency = config.search.budget, to_latency is not None
    if isinstance(share, Amount):
        raise UserError(f"--{'latency' if by_latency else 'gflops'} {share}: expected a share of dense such as 60%")
    made = pruned(config, share, by_latency, tables.say)
    target = f"{share:.1%} of dense {'latency' if by_latency else 'GFLOPs'}"
    checkpoints.save(made.model, out, {"pruned_from": made.checkpoint, "target": target})
    recipe_file.write_text(yaml.safe_dump(made.model.recipe.model_dump(mode="json"), sort_keys=False))
    _print(made)
    tables.say(f"model:  {out}\nrecipe: {recipe_file}")


def _print(made: "Pruned") -> None:
    """Print the widths, GFLOPs and predicted latency of the pruned model."""
    shape, recipe = made.model.shape, made.model.recipe
    full = dense(shape)
    tables.console().print(
        tables.recipe_table(recipe, profile(shape, recipe, made.image), profile(shape, full, made.image))
    )
    if made.table is not None:
        times = made.table.latency_ms(recipe), made.table.latency_ms(full)
        tables.say(f"predicted latency: {times[0]:.3g} of {times[1]:.3g} ms ({made.table.about})")
