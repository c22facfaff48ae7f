# SPDX-License-Identifier: Apache-2.0
"""Compare ways to quantise a recipe's ONNX model: accuracy on the full set, time, and where the time goes.

    python benchmarks/precisions.py 5eb92b [--results results] [--only int8,entropy] [--profile]

Each is one change to what `raycomp export --precision int8` does. All are timed in turns.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import onnx
import onnxruntime
import torch
import typer
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_dynamic

from raycomp.commands.inputs import names, stored_recipe
from raycomp.context.calibration import calibration_crops
from raycomp.context.preparation import prepare_context
from raycomp.deploy.measured import measured
from raycomp.deploy.onnx import graph
from raycomp.deploy.precision import kept_in_float32, linear_maps, quantised, to_fp16
from raycomp.recover import recovered

Graph = onnx.ModelProto
_PROFILED, _BATCH = 8, 16
_SHOWN = 14  # operators
_PERCENTILE = {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"], "CalibPercentile": 99.99}


def main(
    recipe: Annotated[str, typer.Argument(help="Recipe id of a sweep, or a prefix of it.")],
    results: Annotated[str, typer.Option(help="Folder of the sweeps.")] = "results",
    only: Annotated[str, typer.Option(help="Variants; all by default.")] = "",
    profile: Annotated[bool, typer.Option("--profile", help="Print time by operator instead.")] = False,
) -> None:
    torch.set_num_threads(1)
    stored = stored_recipe(recipe, results)
    context = prepare_context(stored.config, print)
    model = recovered(context, stored.recipe, None, torch.device("cpu"), stored.folder).float().eval()
    size = stored.config.data.window_for(context.shape)
    traced = graph(model, torch.zeros(1, 3, *size))
    calibration = context.normalised(calibration_crops(context.shape, stored.config)[0]).numpy()
    made = variants(traced, calibration)
    chosen = names("--only", only, list(made)) if only else list(made)
    graphs = {"fp32": traced} | {name: made[name]() for name in chosen}
    if profile:
        images = torch.randn(_BATCH, 3, *size).numpy()
        for name, one in graphs.items():
            print_profile(name, one, images)
        return
    sources = {name: one.SerializeToString() for name, one in graphs.items()}
    config = stored.config
    found = measured(sources, context.shape, context.evalset, config.evaluation, config.data)
    print(f"{found['fp32'].setting}; recipe {stored.recipe.id}\n")
    print("| variant | clean | corrupted | speed-up at batch 1 | at batch 16 |\n|---|---|---|---|---|")
    for name, figures in found.items():
        accuracies = f"{100 * figures.clean_miou:.2f} | {100 * figures.corrupted_miou:.2f}"
        print(f"| {name} | {accuracies} | {' | '.join(f'{speedup:.2f}' for speedup in figures.speedup.values())} |")


def variants(traced: Graph, calibration: Any) -> dict[str, Callable[[], Graph]]:
    """Return the conversions by name; each takes seconds."""
    maps, kept = linear_maps(traced), set(kept_in_float32(traced))
    nodes = traced.graph.node
    attention = [node.name for node in nodes if node.op_type == "MatMul" and node.name not in {*kept, *maps}]
    scores = [node.name for node in nodes if node.op_type == "MatMul" and node.name in kept]
    embedding = [node.name for node in nodes if node.op_type == "Conv" and node.name not in kept]
    decoder = {node.name for node in nodes if any("'decoder" in held.value for held in node.metadata_props)}

    def static(chosen: list[str], **changed: Any) -> Callable[[], Graph]:
        return lambda: quantised(traced, calibration, chosen, **changed)

    return {
        "fp16": lambda: to_fp16(traced),
        "int8": static(maps),
        "8-bit-weights": static(maps, reduce_range=False),
        "scale-per-matrix": static(maps, per_channel=False),
        "signed-inputs": static(maps, activation_type=QuantType.QInt8),
        "entropy": static(maps, calibrate_method=CalibrationMethod.Entropy),
        "percentile-99.99": static(maps, calibrate_method=CalibrationMethod.Percentile, extra_options=_PERCENTILE),
        "with-outputs": static(maps, extra_options={}),
        "QOperator": static(maps, quant_format=QuantFormat.QOperator, extra_options={}),
        "without-decoder": static([name for name in maps if name not in decoder]),
        "with-embedding": static(maps + embedding, op_types_to_quantize=["MatMul", "Gemm", "Conv"]),
        "with-attention": static(maps + attention),
        "with-merging-scores": static(maps + attention + scores),
        "all-operators": static([], op_types_to_quantize=None, extra_options={}),
        "dynamic": lambda: dynamic(traced, maps),
    }


def dynamic(traced: Graph, maps: list[str]) -> Graph:
    """Quantise linear maps with ranges of inputs found anew in every run."""
    with TemporaryDirectory() as scratch:
        source, made = (Path(scratch) / f"{name}.onnx" for name in ("source", "made"))
        onnx.save(traced, source)
        quantize_dynamic(source, made, op_types_to_quantize=["MatMul"], nodes_to_quantize=maps, per_channel=True)
        return onnx.load(made)


def print_profile(name: str, one: Graph, images: Any) -> None:
    """Print the milliseconds of each kind of operator in a run, and how many there are after optimisation."""
    with TemporaryDirectory() as scratch:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.enable_profiling = 1, True
        options.profile_file_prefix = f"{scratch}/profile"
        session = onnxruntime.InferenceSession(one.SerializeToString(), options)
        for _ in range(_PROFILED):
            session.run(None, {"images": images})
        events = json.loads(Path(session.end_profiling()).read_text())
    times, counts = defaultdict[str, float](float), defaultdict[str, int](int)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"]] += event["dur"] / 1e3 / _PROFILED
            counts[event["args"]["op_name"]] += 1
    total = sum(times.values())
    print(f"\n{name}, batch {len(images)}: {total:.1f} ms")
    for kind, milliseconds in sorted(times.items(), key=lambda item: -item[1])[:_SHOWN]:
        print(f"  {kind:24}{counts[kind] // _PROFILED:4}x {milliseconds:7.2f} ms {milliseconds / total:6.1%}")


if __name__ == "__main__":
    typer.run(main)
