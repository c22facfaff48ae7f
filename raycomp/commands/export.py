# SPDX-License-Identifier: Apache-2.0
"""`raycomp export | predict | speed`: turn a recipe into a model that runs elsewhere. torch is imported late."""

from collections.abc import Callable, Mapping
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
from raycomp.deploy.precision_facts import PRECISIONS, Precision
from raycomp.errors import UserError, nearest
from raycomp.report import tables
from raycomp.results.query import final_front
from raycomp.results.store import Store, sweep_folder

if TYPE_CHECKING:
    import torch

    from raycomp.deploy.speed import OnnxFile
    from raycomp.models.segmenter import Segmenter

_FORMATS = ("safetensors", "onnx", "pt2")
_RUNTIMES = ("torch", "onnxruntime")
_DTYPES = ("float32", "bfloat16", "float16")
_PRECISION_HELP = "Precisions of the ONNX model: fp32, fp16, int8."
_FORMATS_HELP = "Formats: safetensors, onnx, pt2."
_FORMATS_DEFAULT = "safetensors,onnx; with --bundle onnx"
_BUNDLE_HELP = "Write a folder to deploy: ONNX, a program without torch, a model card, checksums."
_REFINED_HELP = "Export the model that raycomp refine fine-tuned."
_MEASURE_HELP = "Measure accuracy and time of every precision, if another than fp32 is chosen."

_MODELS_HELP = "Exported models (.safetensors, .onnx of any precision), or a sweep: its front."

Device = Annotated[str, typer.Option(help="cpu or cuda.")]


def export_command(
    recipe: Annotated[str, typer.Argument(help="Recipe id of a sweep, or a prefix of it.")],
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path(),
    formats: Annotated[str | None, typer.Option(help=_FORMATS_HELP, show_default=_FORMATS_DEFAULT)] = None,
    precision: Annotated[str | None, typer.Option(help=_PRECISION_HELP, show_default="the recipe's")] = None,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help=_MEASURE_HELP)] = True,
    bundle: Annotated[bool, typer.Option("--bundle", help=_BUNDLE_HELP)] = False,
    refined: Annotated[bool, typer.Option("--refined", help=_REFINED_HELP)] = False,
    sweep: Sweep = None,
    results: Results = "results",
    as_json: Json = False,
) -> None:
    """Write a recipe's model as safetensors, as ONNX, or as a torch.export program; or as a folder to deploy."""
    chosen, given = _files(formats, precision, bundle)
    stored = stored_recipe(recipe, results, sweep)
    precisions: list[Precision] = given or [stored.recipe.precision]
    from raycomp.files import check_outputs
    from raycomp.jobs.bundling import beside, export_bundle
    from raycomp.jobs.exporting import Outputs, export
    from raycomp.jobs.exporting_onnx import Written
    from raycomp.models import checkpoints
    from raycomp.report.precision_table import precision_table

    config, recipe_id = stored.config, stored.recipe.id
    console = tables.console(aside=as_json)

    def exported(folder: Path, say: Callable[[str], None]) -> list[Written]:
        outputs = Outputs.of(folder, recipe_id, chosen, precisions)
        weights = [checkpoints.locate(name) for name in (config.model.checkpoint, config.model.elastic) if name]
        check_outputs(f"--out {out}", outputs.files, weights)
        return export(stored.recipe, config, stored.folder, outputs, refined, measure, say)

    whole = stored.recipe, config, stored.folder, out, refined, exported, console.print
    made = export_bundle(*whole) if bundle else exported(out, console.print)
    if as_json:
        files = [one.described() for one in made] + (beside(made) if bundle else [])
        print_json([{"recipe": recipe_id, **one} for one in files])
    elif figures := {one.precision: one.figures for one in made if one.figures is not None}:
        console.print(precision_table(recipe_id, figures, {one.precision: one.size for one in made}))


def _files(formats: str | None, precision: str | None, bundle: bool) -> tuple[list[str], list[Precision]]:
    """Return the formats and precisions of `raycomp export`, and check that the options fit together.

    Without `precision`, there are none: it is that of the recipe.
    """
    chosen = names("--formats", formats or ("onnx" if bundle else "safetensors,onnx"), _FORMATS)
    precisions = [] if precision is None else names("--precision", precision, PRECISIONS)
    if "onnx" not in chosen and (bundle or precisions not in ([], ["fp32"])):
        option = "--bundle" if bundle else f"--precision {precision}"
        raise UserError(f"{option} needs onnx in --formats, not only {formats}")
    return chosen, precisions


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
    tables.say(f"note: {card.scope}", aside=True, style="yellow")
    predictions, made = predict(run, card, files, where), list[dict[str, Any]]()
    console = tables.console(aside=as_json)
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
    tables.say(f"{len(files)} picture(s) in {out}")


def speed_command(
    models: Annotated[list[str], typer.Argument(help=_MODELS_HELP)],
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
    runtimes, batches = _measurements(runtime, batch, dtype, compiled)
    if plot is not None:
        check_suffix("--plot", plot, ".png")
    import torch

    from raycomp.deploy.speed import speeds
    from raycomp.devices import device_name
    from raycomp.memory import keep_freed_memory
    from raycomp.report.plot import plot_speed

    where = device_of(device)
    torch.set_num_threads(threads)
    keep_freed_memory()
    loaded = {name: model for given in models for name, model in _models(given, results, where).items()}
    note = tables.console(aside=True).print  # no progress bar, which would disturb the timing
    measured = speeds(loaded, runtimes, batches, where, getattr(torch, dtype), rounds, note, compiled)
    setting = f"{device_name(where)}, {dtype}, {threads} thread(s){', compiled' if compiled else ''}"
    if plot is not None:
        plot_speed(measured, setting, plot)
    if as_json:
        print_json([{**vars(s), "ratio": s.ratio, "in_vain": s.in_vain, "setting": setting} for s in measured])
        return
    if plot is not None:
        tables.say(f"plot: {plot}")
    tables.say(f"{setting}, medians of {rounds} runs, models in turns")
    tables.console().print(tables.speed_table(measured))


def _measurements(runtime: str, batch: str, dtype: str, compiled: bool) -> tuple[list[str], list[int]]:
    """Return the runtimes and batch sizes of `raycomp speed`, and check that the options fit together."""
    runtimes = names("--runtime", runtime, _RUNTIMES)
    if dtype not in _DTYPES:
        raise UserError(f"--dtype {dtype}: {nearest(dtype, _DTYPES)}")
    if compiled and "torch" not in runtimes:
        raise UserError(f"--compile needs torch in --runtime, not {runtime}")
    batches = [int(size) for size in numbers("--batch", batch, 1, 4096)]
    if not batches:
        raise UserError("--batch is empty; for example 1,16")
    return runtimes, batches


def _models(given: str, results: str, device: "torch.device") -> "Mapping[str, Segmenter | OnnxFile]":
    """Return an exported model, or those of a sweep's front with random weights, which do not affect speed."""
    import raycomp

    if given.endswith(".onnx"):
        from raycomp.deploy.predict import check_model
        from raycomp.deploy.speed import open_onnx

        check_model(Path(given))
        return {Path(given).name: open_onnx(Path(given), device)}
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
    made = {row.recipe_id: Segmenter(shape, row.recipe).eval() for row in front}
    for model in made.values():
        remerge(model, model.recipe)
    return made
