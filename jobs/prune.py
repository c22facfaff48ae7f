"""Prune the dense model of a search space by NViT, to a share of its GFLOPs or of its latency on this device.

    python jobs/prune.py --space search_spaces/streetscenes_vit_micro.yaml --gflops 60% --out pruned.safetensors
    python jobs/prune.py --space search_spaces/streetscenes_vit_micro.yaml --latency 60% --out pruned.safetensors

NViT trains between its rounds; here `--train-between STEPS` says how long, and by default it does not. Writes the
pruned model, not fine-tuned afterwards, and its recipe beside it (.yaml), for `raycomp explain`.
"""

import os
from pathlib import Path
from typing import Annotated

import typer
import yaml

from raycomp import config as configs
from raycomp.cli import guarded
from raycomp.commands.inputs import check_suffix
from raycomp.errors import UserError
from raycomp.files import check_outputs
from raycomp.flops import gflops, profile
from raycomp.recipe import Recipe, dense
from raycomp.report import tables


def main(
    space: Annotated[Path, typer.Option(help="Search space file.")],
    out: Annotated[Path, typer.Option(help="Checkpoint to write (.safetensors); the recipe lands beside it.")],
    to_gflops: Annotated[str | None, typer.Option("--gflops", help="Target as a share of dense, e.g. 60%.")] = None,
    to_latency: Annotated[
        str | None, typer.Option("--latency", help="Target as a share of the dense model's time.")
    ] = None,
    train_between: Annotated[int | None, typer.Option(help="Training steps after each round but the last.")] = None,
    weight: Annotated[float | None, typer.Option(help="eta: score per millisecond saved, the latency term.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data set, in place of the file's.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Dense checkpoint, in place of the file's.")] = None,
) -> None:
    """Prune to a target and say what is left."""
    if (to_gflops is None) == (to_latency is None):
        raise UserError("give either --gflops or --latency, for example --gflops 60%")
    check_suffix("--out", out, ".safetensors")
    if not os.access(out.parent if out.parent.is_dir() else Path(), os.W_OK):
        raise UserError(f"--out {out}: the folder is not writable")
    config = configs.load(space, budget=to_gflops or to_latency)
    share = config.search.budget
    config = config.changed("data", root=data).changed("model", checkpoint=checkpoint)
    config = config.changed("nvit", latency_weight=weight).training_between(train_between)
    recipe_file = out.with_suffix(".yaml")
    import torch  # seconds, which bad input need not wait for

    from raycomp.compress.nvit import nvit
    from raycomp.evaluate.latency_table import measure_latency
    from raycomp.memory import keep_freed_memory
    from raycomp.models import checkpoints
    from raycomp.recover import retraining
    from raycomp.search.base import default_device, prepare_base, score
    from raycomp.train import preloaded

    check_outputs(f"--out {out}", [out, recipe_file], [space, checkpoints.locate(config.model.checkpoint)])
    console, device = tables.console(), default_device()

    def say(line: str) -> None:
        console.print(line, highlight=False)

    base = prepare_base(config, say, criterion=config.nvit.criterion)
    shape, image = base.shape, config.data.window_for(base.shape)
    table = None
    keep_freed_memory()
    if to_latency is not None or config.nvit.latency_weight:
        console.print("timing the parts of the model at a grid of widths", highlight=False)
        table = measure_latency(shape, config.evaluation.batch, device, getattr(torch, config.evaluation.dtype), image)

    def cost(recipe: Recipe) -> float:
        return table.latency_ms(recipe) if table is not None and to_latency else gflops(shape, recipe, image)

    found = nvit(
        base.model,
        base.saliency,
        lambda small: score(small, config, device, config.nvit.criterion),
        share * cost(dense(shape)),
        cost,
        config.nvit,
        table.latency_ms if table is not None else None,
        retraining(base, preloaded(config, config.nvit.training_steps, say), device),
    )
    if not found.reached:
        raise UserError(f"NViT cannot reach {share:.0%} of dense: the least is {found.cost / cost(dense(shape)):.0%}")
    facts = {"pruned_from": base.checkpoint, "target": f"{share:.1%} of dense {'latency' if to_latency else 'GFLOPs'}"}
    recipe = found.model.recipe
    checkpoints.save(found.model, out, facts)
    recipe_file.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    console.print(tables.recipe_table(recipe, profile(shape, recipe, image), profile(shape, dense(shape), image)))
    if table is not None:
        times = table.latency_ms(recipe), table.latency_ms(dense(shape))
        console.print(f"by the table: {times[0]:.3g} of {times[1]:.3g} ms ({table.setting})", highlight=False)
    console.print(f"model:  {out}\nrecipe: {recipe_file}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    guarded(main)
