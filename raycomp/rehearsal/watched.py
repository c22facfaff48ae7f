# SPDX-License-Identifier: Apache-2.0
"""Run a command and watch it: its time, the time of its training steps, and its memory."""

import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import psutil

_STEP = re.compile(r"(?:model .*, )?step \d+/\d+\b.*, (\d+\.\d+) s$")
"""A line of `raycomp train` or `raycomp refine`: a training step, and the seconds of all steps so far."""
_EVERY = 0.5  # seconds between looks at the memory
_QUERY = ("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits")
_MIB = 2**20


@dataclass
class Watched:
    """A finished command."""

    code: int = 0
    """Exit status."""
    seconds: float = 0.0
    memory: int = 0
    """Most memory of all its processes together, bytes."""
    gpu_memory: int = 0
    """Most memory in use on any GPU, bytes, by whatever process; 0 without GPUs."""
    output: str = ""
    """What it wrote to stdout."""
    problem: str = ""
    """Its last line on stderr, if it failed."""
    steps: list[float] = field(default_factory=list)
    """Seconds of all training steps after each."""

    @property
    def step_seconds(self) -> float | None:
        """Time of its last training step; None if it trained fewer than two."""
        return self.steps[-1] - self.steps[-2] if len(self.steps) > 1 else None


def watch(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Watched:
    """Run a command to its end; its stderr goes to the file `log`."""
    result, started, done = Watched(), time.monotonic(), Event()
    with log.open("w") as errors:
        process = subprocess.Popen(  # noqa: S603  raycomp itself
            command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, env=environment, text=True
        )
        looking = Thread(target=_look, args=(process.pid, result, done), daemon=True)
        looking.start()
        lines = []
        try:
            for line in process.stdout or ():
                lines.append(line)
                if step := _STEP.match(line):
                    result.steps.append(float(step[1]))
            result.code = process.wait()
        finally:
            process.terminate()
            done.set()
            looking.join()
    result.seconds, result.output = time.monotonic() - started, "".join(lines)
    if result.code:
        written = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        result.problem = written[-1].removeprefix("error: ") if written else f"ended with status {result.code}"
    return result


def _look(pid: int, result: Watched, done: Event) -> None:
    """Record the most memory until `done` is set."""
    has_gpu = shutil.which(_QUERY[0]) is not None
    while not done.wait(_EVERY):
        result.memory = max(result.memory, _memory(pid))
        if has_gpu:
            used = subprocess.run(_QUERY, capture_output=True, text=True, check=False).stdout.split()  # noqa: S603
            result.gpu_memory = max([result.gpu_memory, *(int(value) * _MIB for value in used if value.isdigit())])


def _memory(pid: int) -> int:
    """Return the memory of a process and all below it, bytes; what they share counts once where the system tells."""
    total = 0
    with suppress(psutil.Error):  # it has ended
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.Error):
                full = process.memory_full_info()
                total += getattr(full, "pss", full.rss)
    return total
