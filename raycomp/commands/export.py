# SPDX-License-Identifier: Apache-2.0
"""`raycomp export | predict | speed`: turn a recipe into a model that runs elsewhere. torch is imported late."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raycomp.commands.inputs import (
    Json,
    Results,
    Sweep,
    check_suffix,
    device_of,
    is_file,
    names,
    numbers,
    print_json,
    shape_of,
    stored_recipe,
)
from raycomp.errors import UserError, nearest
from raycomp.report import tables
from raycomp.results.query import final_front
from raycomp.results.store import Store, sweep_folder
from raycomp.storage import AnyPath

if TYPE_CHECKING:
    from raycomp.models.segmenter import Segmenter

_FORMATS = ("safetensors", "onnx", "pt2")
_RUNTIMES = ("torch", "onnxruntime")
_DTYPES = ("float32", "bfloat16", "float16")
_CHECKED = 8  # real images to check an export on

Device = Annotated[str, typer.Option(help="cpu or cuda.")]


def export_command(
    recipe: Annotated[str, typer.Argument(help="Recipe id of a sweep, or a prefix of it.")],
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path(),
    formats: Annotated[str, typer.Option(help="Formats: safetensors, onnx, pt2.")] = "safetensors,onnx",
    refined: Annotated[
        bool, typer.Option("--refined", help="Export the model that raycomp refine fine-tuned.")
    ] = False,
    sweep: Sweep = None,
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """Write a recipe's model as safetensors, as ONNX, or as a torch.export program."""
    chosen = names("--formats", formats, _FORMATS)
    stored = stored_recipe(recipe, results, sweep)
    compressed, config, folder = stored.recipe, stored.config, stored.folder
    import torch

    from raycomp.context.preparation import prepare_context
    from raycomp.deploy import model as models
    from raycomp.evaluate.miou import first_window, normalised
    from raycomp.files import check_outputs, fetched
    from raycomp.models import checkpoints
    from raycomp.recover import recovered

    paths = {name: out / f"{compressed.id}.{name}" for name in chosen}
    beside = [path.with_suffix(".yaml") for name, path in paths.items() if name == "safetensors"]
    weights = [checkpoints.locate(name) for name in (config.model.checkpoint, config.model.elastic) if name]
    check_outputs(f"--out {out}", [*paths.values(), *beside], weights)
    console = tables.console(aside=as_json)
    context = prepare_context(config, lambda line: console.print(line, highlight=False))
    if refined:
        trained: list[AnyPath] = list((folder / "refined").glob(f"{compressed.id}-seed*.safetensors"))
        if not trained:
            raise UserError(f"recipe {compressed.id}: no refined model in {folder}; raycomp refine makes one")
        with fetched(min(trained, key=str)) as local:
            network = models.load(local)
    else:
        network = recovered(context, compressed, None, torch.device("cpu"), folder).float().eval()
    card = models.card_of(network, config.data, tuple(context.evalset.classes))
    samples = [torch.from_numpy(image[None]) for image in context.evalset.images.views()[:_CHECKED]]
    normal = (normalised(image, card.mean, card.std, torch.float32) for image in samples)
    images = torch.cat([first_window(image, card.window) for image in normal])
    made: list[dict[str, Any]] = []
    for name, path in paths.items():
        difference = None
        if name == "safetensors":
            models.save(network, card, path)
            message = f"raycomp.load({str(path)!r}); recipe in {path.with_suffix('.yaml')}"
        else:
            from raycomp.deploy.onnx import export_onnx, export_program

            with tables.console(aside=True).status(f"tracing for {name}, and checking on {len(samples)} images"):
                difference = (export_onnx if name == "onnx" else export_program)(network, card, path, images)
            message = f"logits within {difference:.1e} of torch's on {len(samples)} images"
        console.print(f"{path}: {message}", highlight=False)
        made.append({"recipe": compressed.id, "format": name, "path": path, "logit_difference": difference})
    if as_json:
        print_json(made)


def predict_command(
    model: Annotated[Path, typer.Argument(help="Exported model: .safetensors, .onnx or .pt2.")],
    images: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("predictions"),
    labels: Annotated[bool, typer.Option("--labels", help="Also write class indices as grey PNG.")] = False,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Draw the segmentation of an image, or of a folder of images."""
    from rich.progress import track

    from raycomp.deploy.predict import image_files, labels_of, open_model, pictures, predict, write_labels
    from raycomp.report.segmentation import draw

    files = image_files(images)
    drawn = pictures(files, out)
    where = device_of(device)
    run, card = open_model(model, where)
    note = f"note: {card.scope}"
    tables.console(aside=True).print(note, style="yellow", highlight=False, soft_wrap=True)
    predictions = predict(run, card, files, where)
    console, made = tables.console(aside=as_json), list[dict[str, Any]]()
    for path, image, predicted in track(predictions, "segmenting", total=len(files), console=console):
        picture = drawn[path]
        indices = labels_of(picture)
        draw(image, predicted, card.classes, picture)
        if labels:
            write_labels(predicted, indices)
        shares = {name: float((predicted == index).mean()) for index, name in enumerate(card.classes)}
        made.append({"image": path, "picture": picture, "labels": indices if labels else None, "shares": shares})
    if as_json:
        print_json(made)
        return
    console.print(f"{len(files)} picture(s) in {out}", highlight=False, soft_wrap=True)


def speed_command(
    models: Annotated[list[str], typer.Argument(help="Exported models (.safetensors), or a sweep: its front.")],
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = "1,16",
    runtime: Annotated[str, typer.Option(help="Runtimes: torch, onnxruntime.")] = "torch,onnxruntime",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Runs per median.")] = 15,
    device: Device = "cpu",
    compiled: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a plot of speed against FLOPs saved.")] = None,
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """Compare latency and throughput with the dense model: how much of the saved FLOPs becomes speed."""
    runtimes = names("--runtime", runtime, _RUNTIMES)
    if plot is not None:
        check_suffix("--plot", plot, ".png")
    if dtype not in _DTYPES:
        raise UserError(f"--dtype {dtype}: {nearest(dtype, _DTYPES)}")
    if compiled and "torch" not in runtimes:
        raise UserError(f"--compile needs torch in --runtime, not {runtime}")
    import torch

    from raycomp.deploy.speed import speeds
    from raycomp.devices import device_name
    from raycomp.memory import keep_freed_memory

    batches = [int(size) for size in numbers("--batch", batch, 1, 4096)]
    if not batches:
        raise UserError("--batch is empty; for example 1,16")
    where = device_of(device)
    torch.set_num_threads(threads)
    keep_freed_memory()
    loaded = {name: model for given in models for name, model in _models(given, results).items()}
    say = tables.console(aside=True).print  # no progress bar, which would disturb the timing
    measured = speeds(loaded, runtimes, batches, where, getattr(torch, dtype), rounds, say, compiled)
    setting = f"{device_name(where)}, {dtype}, {threads} thread(s)" + (", compiled" if compiled else "")
    if plot is not None:
        from raycomp.report.plot import plot_speed

        plot_speed(measured, setting, plot)
    if as_json:
        print_json([{**vars(s), "ratio": s.ratio, "in_vain": s.in_vain} for s in measured])
        return
    console = tables.console()
    if plot is not None:
        console.print(f"plot: {plot}", highlight=False, soft_wrap=True)
    console.print(f"{setting}, medians of {rounds} runs, models in turns", highlight=False)
    console.print(tables.speed_table(measured))


def _models(given: str, results: str) -> "dict[str, Segmenter]":
    """Return an exported model, or those of a sweep's front with random weights, which do not affect speed."""
    import raycomp

    if given.endswith(".safetensors") or is_file(given):
        return {Path(given).stem: raycomp.load(given)}
    from raycomp.compress.apply import remerge
    from raycomp.models.segmenter import Segmenter

    store = Store(sweep_folder(results, given))
    config = store.config()
    shape, _ = shape_of(config, store.folder)
    front = final_front(store.rows(), config.search.budget)
    if not front:
        raise UserError(f"speed: sweep {given} has no front yet")
    made = {}
    for row in front:
        recipe = row.recipe
        made[recipe.id] = Segmenter(shape, recipe).eval()
        remerge(made[recipe.id], recipe)
    return made
