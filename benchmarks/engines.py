# SPDX-License-Identifier: Apache-2.0
"""Compare engines and precisions on the dense model and on the front of a sweep: time, accuracy and memory.

    python benchmarks/engines.py streetscenes_vit_micro [--shares 60,40,27,18] [--out engines]

Exports every recipe by `raycomp export`, which measures its accuracy in onnxruntime, and keeps the files in `--out`, so
that a second run only times them. All models of a batch size take turns on one thread, by the thread's own clock.
Memory is what a process that runs a batch holds at most, beyond what it holds once the engine is imported.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer

import raycomp
from raycomp.deploy.engines import graph_runs, torch_runs
from raycomp.deploy.measured import processor
from raycomp.deploy.precision_facts import PRECISIONS
from raycomp.evaluate.latency import median_seconds, own_clock
from raycomp.memory import keep_freed_memory
from raycomp.results.query import dense_row, final_front
from raycomp.results.row import Row
from raycomp.results.store import Store, sweep_folder

CPU = torch.device("cpu")
BATCHES = (1, 16)
ROUNDS, WARM_UP = 25, 3
ENGINES = (("torch", "fp32"), ("torch.compile", "fp32"), *(("onnxruntime", precision) for precision in PRECISIONS))
_PEAK = """
from pathlib import Path
def peak():  # MB; getrusage would count what the parent process held
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6
"""
TORCH = (
    _PEAK
    + """
import sys, torch, raycomp, raycomp.deploy.model, raycomp.models.segmenter
path, batch, rows, columns = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(1)
before = peak()
model = raycomp.load(path)
with torch.inference_mode():
    model(torch.randn(batch, 3, rows, columns))
print(peak() - before)
"""
)
ONNX = (
    _PEAK
    + """
import sys, numpy, onnxruntime
path, batch, rows, columns = sys.argv[1], *map(int, sys.argv[2:])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
images = numpy.zeros((batch, 3, rows, columns), numpy.float32)
before = peak()
onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, {"images": images})
print(peak() - before)
"""
)


class Member(NamedTuple):
    """A recipe of the table, and where its files are."""

    name: str
    row: Row
    folder: Path

    def path(self, engine: str, precision: str) -> Path:
        stem = self.row.recipe_id if precision == "fp32" else f"{self.row.recipe_id}.{precision}"
        return self.folder / f"{stem}.{'onnx' if engine == 'onnxruntime' else 'safetensors'}"


def main(
    sweep: Annotated[str, typer.Argument(help="Name of a sweep.")],
    shares: Annotated[str, typer.Option(help="Percent of the dense GFLOPs; the largest front member within each.")] = (
        "60,40,27,18"
    ),
    results: Annotated[str, typer.Option(help="Folder of the sweeps.")] = "results",
    out: Annotated[Path, typer.Option(help="Folder for the exported models.")] = Path("engines"),
) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    store = Store(sweep_folder(results, sweep))
    config, rows = store.config(), store.rows()
    wanted = [float(one) / 100 for one in shares.split(",")]
    members = chosen(rows, final_front(rows, config.search.budget), wanted, out)
    figures = {member.name: exported(member, sweep, results) for member in members}
    size = config.data.window_for(raycomp.load(str(members[0].path("torch", "fp32"))).shape)
    seconds = {batch: timed(members, batch, size) for batch in BATCHES}
    print(f"{processor()}, one thread, torch {torch.__version__}, {size[0]}x{size[1]} px\n")
    print("| recipe | FLOPs saved | engine | precision | clean | corrupted |", end="")
    print(" ms, batch 1 | gained / saved | ms, batch 16 | gained / saved | memory MB, batch 16 |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    full = present(members[0].row.gflops)
    for member in members:
        saved = full / present(member.row.gflops)
        for engine, precision in ENGINES:
            cells = [member.name, f"{saved:.2f}x", engine, precision, *accuracy(member, engine, precision, figures)]
            for batch in BATCHES:
                value = seconds[batch][member.name, engine, precision]
                gained = seconds[batch][members[0].name, engine, precision] / value
                cells += [f"{1e3 * value:.2f}", f"{gained / saved:.2f}"]
            print(f"| {' | '.join([*cells, memory(member, engine, precision, size)])} |", flush=True)


def chosen(rows: list[Row], front: list[Row], shares: list[float], out: Path) -> list[Member]:
    """Return the dense model, and for each share the front member within it that costs most."""
    dense = dense_row(rows, "full")
    assert dense is not None
    members = [Member("dense", dense, out)]
    for share in shares:
        best = max((row for row in front if present(row.gflops_share) <= share), key=lambda row: present(row.gflops))
        members.append(Member(best.recipe_id, best, out))
    return members


def exported(member: Member, sweep: str, results: str) -> dict[str, Any]:
    """Export a recipe unless it is there; return what `raycomp export` measured, by precision."""
    kept = member.folder / f"{member.row.recipe_id}.json"
    if not kept.is_file():
        options = ["--formats", "safetensors,onnx", "--precision", ",".join(PRECISIONS), "--out", str(member.folder)]
        command = [sys.executable, "-m", "raycomp", "export", member.row.recipe_id, "--sweep", sweep]
        done = subprocess.run(
            [*command, "--results", results, *options, "--json"], capture_output=True, text=True, check=True
        )
        kept.write_text(done.stdout)
    files: list[dict[str, Any]] = json.loads(kept.read_text())
    return {one["precision"]: one["figures"] for one in files if one["format"] == "onnx"}


def timed(members: list[Member], batch: int, size: tuple[int, int]) -> dict[tuple[str, str, str], float]:
    """Return median seconds by recipe, engine and precision."""
    images, runs = torch.randn(batch, 3, *size), dict[tuple[str, str, str], Callable[[], object]]()
    with torch.inference_mode():
        for member in members:
            for engine, precision in ENGINES:
                path = member.path(engine, precision)
                if engine == "onnxruntime":
                    bind = graph_runs(path.read_bytes(), CPU, 1)
                else:
                    model = raycomp.load(str(path)).eval()
                    bind = torch_runs(model, CPU, torch.float32, compiled=engine == "torch.compile")
                runs[member.name, engine, precision] = bind(images)
        return median_seconds(runs, CPU, ROUNDS, WARM_UP, own_clock(CPU, 1))


def accuracy(member: Member, engine: str, precision: str, figures: dict[str, dict[str, Any]]) -> tuple[str, str]:
    """Return clean and corrupted mIoU in %: of the sweep for torch, as exported for onnxruntime."""
    row, found = member.row, figures[member.name][precision]
    values = (found["clean_miou"], found["corrupted_miou"])
    if engine != "onnxruntime":
        values = (row.clean_miou, row.corrupted_miou)
    clean, corrupted = (f"{100 * value:.2f}" for value in values)
    return clean, corrupted


def memory(member: Member, engine: str, precision: str, size: tuple[int, int]) -> str:
    """Return the MB that running a batch of 16 takes in a process of its own; compiling would count as well."""
    if engine == "torch.compile":
        return ""
    arguments = [str(member.path(engine, precision)), str(BATCHES[-1]), *map(str, size)]
    program = ONNX if engine == "onnxruntime" else TORCH
    run = partial(subprocess.run, capture_output=True, text=True, check=True)
    return f"{float(run([sys.executable, '-c', program, *arguments]).stdout):.0f}"


def present(value: float | None) -> float:
    assert value is not None
    return value


if __name__ == "__main__":
    typer.run(main)
