# SPDX-License-Identifier: Apache-2.0
"""Measure the code on a GPU: correctness, kernels, speed, memory, and one real sweep. Takes about 8 minutes.

    python benchmarks/gpu.py --out gpu-results                        # on a machine with CUDA
    python benchmarks/gpu.py --out gpu-results --steps 3,5            # repeat some steps
    python benchmarks/gpu.py --out gpu-results --docs                 # render docs/results/gpu.md from the figures
    python benchmarks/gpu.py --device cpu --small --out /tmp/small    # run every line once, without a GPU

Each step runs in a separate process with a time limit, and `gpu.json` is written after each, so that a failed or slow
step does not affect the others. The machine needs Python 3.11, torch with CUDA and the packages of pyproject.toml.
"""

import faulthandler
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_NUM_THREADS", "8" if (os.cpu_count() or 1) >= 8 else "1")

import typer

STEPS = {
    "machine": 40,
    "agreement": 60,
    "attention": 40,
    "models": 60,
    "merging": 40,
    "parts": 60,
    "trial": 60,
    "training": 80,
    "sweep": 150,
    "tools": 120,
    "compiled": 80,
}
"""Each step and its limit in seconds, in order of execution; together they take less than the sum of the limits."""
_PRELOADED = ["torch", "raycomp.search.trial"]  # imported once, for all steps


def main(
    out: Annotated[Path, typer.Option(help="Folder for gpu.json and the logs.")],
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    small: Annotated[bool, typer.Option("--small", help="Use toy sizes.")] = False,
    steps: Annotated[str, typer.Option(help="Steps to run, by name or number.")] = ",".join(STEPS),
    docs: Annotated[bool, typer.Option("--docs", help="Only render docs/results/gpu.md.")] = False,
) -> None:
    if docs:
        from gpu_docs import write_page

        print(write_page(json.loads((out / "gpu.json").read_text())))
        return
    names = list(STEPS)
    chosen = [names[int(step)] if step.isdigit() else step for step in steps.split(",")]
    if unknown := [step for step in chosen if step not in STEPS]:
        raise typer.BadParameter(f"{unknown[0]}: no such step; allowed: {', '.join(STEPS)}")
    out.mkdir(parents=True, exist_ok=True)
    path, context = out / "gpu.json", multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    held: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"steps": {}}
    held |= {"device": device, "small": small}
    for name in chosen:
        began, file = time.monotonic(), out / f"{name}.json"
        file.unlink(missing_ok=True)
        print(f"{names.index(name)} {name} ...", end=" ", flush=True)
        process = context.Process(target=_step, args=(name, device, small, out))
        process.start()
        process.join(_limit(name, small))
        status = "done" if process.exitcode == 0 else "failed"
        if process.exitcode is None:
            status = "timed out"
            os.killpg(process.pid or 0, signal.SIGKILL)  # with its child processes
            process.join()
        figures = json.loads(file.read_text()) if file.is_file() else {}
        file.unlink(missing_ok=True)
        seconds = round(time.monotonic() - began, 1)
        when = datetime.now(UTC).isoformat(timespec="minutes")
        held["steps"][name] = {"status": status, "seconds": seconds, "when": when, **figures}
        path.write_text(json.dumps(held, indent=1))
        print(f"{status} in {seconds} s", *([figures["error"]] if "error" in figures else []), flush=True)
    shutil.rmtree(out / "work", ignore_errors=True)
    print(json.dumps({name: held["steps"][name] for name in chosen}, indent=1))
    sys.exit(any(held["steps"][name]["status"] != "done" for name in chosen))


def _limit(name: str, small: bool) -> int:
    """Return the limit in seconds; the small form may run on two busy cores."""
    return 5 * STEPS[name] if small else STEPS[name]


def _step(name: str, device: str, small: bool, out: Path) -> None:
    """Run one step in this process, with its output in a log."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # for data loaders, as in a job
    with (out / f"{name}.log").open("w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    faulthandler.dump_traceback_later(_limit(name, small) - 2)  # shows where a step hangs
    from gpu_steps.notes import Notes, Setting

    folder = out / "work"
    folder.mkdir(exist_ok=True)
    notes = Notes(out / f"{name}.json")
    try:
        importlib.import_module(f"gpu_steps.{name}").run(Setting(device, small, folder.resolve()), notes)
    except Exception as error:
        traceback.print_exc()
        notes.put(error=f"{type(error).__name__}: {error}"[:500])
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
