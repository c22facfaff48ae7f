# SPDX-License-Identifier: Apache-2.0
"""Render the figures of `benchmarks/gpu.py` as docs/results/gpu.md."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "gpu.md"
Figures = Mapping[str, Any]
_NO_KERNEL = ("aten::", "Command Buffer", "Activity Buffer", "Buffer Flush")  # sums, and the profiler's own


def write_page(results: Figures) -> Path:
    """Write the page, and return its path."""
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(results))
    return PAGE


def page(results: Figures) -> str:
    """Return the page of one run's figures."""
    steps: Figures = results["steps"]
    parts = [_head(steps) + "".join(f"\n{note}\n" for note in results.get("notes", []))]
    for name, (title, text, needed, render) in _SECTIONS.items():
        if needed in steps.get(name, {}):
            tables = "\n".join(render(steps[name]))
            parts.append(f"## {title}\n\n{text}\n\n{tables}\n")
    left = [f"- `{name}` was not run." for name in _SECTIONS if name not in steps]
    left += [
        f"- `{name}` {step['status']} after {step['seconds']:.0f} s"
        + (f": {step['error']}" if "error" in step else ".")
        for name, step in steps.items()
        if step["status"] != "done"
    ]
    if left:
        parts.append(
            "## Steps that did not finish\n\nTheir figures up to that point are above.\n\n" + "\n".join(left) + "\n"
        )
    return "\n".join(parts)


def _head(steps: Figures) -> str:
    machine = steps.get("machine", {})
    packages = machine.get("packages", {})
    when = max((step["when"][:10] for step in steps.values()), default="")
    lines = [
        "# On a GPU",
        "",
        "```",
        "python benchmarks/gpu.py --out gpu-results",
        "python benchmarks/gpu.py --out gpu-results --docs",
        "```",
        "",
        f"{machine.get('card', 'unknown card')}, driver {machine.get('driver')}, CUDA {machine.get('cuda')}, "
        f"torch {packages.get('torch')}, Triton {packages.get('triton')}, {when}.",
        f"The card copies up to {machine.get('copy_tb_per_s', 0):.1f} TB/s (read and written) and multiplies "
        f"bfloat16 matrices at up to {machine.get('product_tflops', 0):.0f} TFLOP/s.",
        "The program generates this page from its measurements.",
        "",
    ]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "| --- " + "| ---: " * (len(head) - 1) + "|"]
    return [*lines, *("| " + " | ".join(_cell(value) for value in row) + " |" for row in rows)]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2e}" if 0 < abs(value) < 0.001 else f"{value:.4g}"
    return str(value)


def _agreement(step: Figures) -> list[str]:
    logits = [(name, one["largest"], one["images_beyond_1e-4"], one["images"]) for name, one in step["logits"].items()]
    lines = _table(["Recipe", "Maximum difference of logits", "Images beyond 1e-4", "Of images"], logits)
    rows = [
        (name, how, one["clean"], one["corrupted"])
        for name, ways in step.get("miou", {}).items()
        for how, one in ways.items()
    ]
    return [*lines, "", *_table(["Recipe", "Precision and device", "Clean mIoU", "Corrupted mIoU"], rows)]


def _attention(step: Figures) -> list[str]:
    first = [
        (f"{way} cuDNN", one["median"], one["most"], one["second_call"])
        for way in ("without", "with")
        if (one := step.get(f"first_call_ms_{way}_cudnn"))
    ]
    names = ("default", "fused", "flash", "efficient", "cudnn", "math")
    rows = [
        (case, *(one[name] if isinstance(one.get(name), float) else "-" for name in names))
        for case, one in step["attention"].items()
    ]
    return [
        *_table(["New shape", "First call, median ms", "Maximum, ms", "Second call, ms"], first),
        "",
        *_table(["Batch 32, 12 heads", *(f"{name}, ms" for name in names)], rows),
    ]


def _models(step: Figures) -> list[str]:
    lines = []
    for batch, cases in step["models"].items():
        rows = []
        for name, one in cases.items():
            eager, graph = one["eager"], one.get("graph", {})
            rows.append(
                (name, one["saved"], eager["ms"], graph.get("ms"), graph.get("gained"), graph.get("ratio"),
                 one.get("kernels"), one.get("peak_gib"))
            )  # fmt: skip
        head = ["FLOPs saved", "Eager, ms", "Graph, ms", "Gained", "Ratio", "Kernels", "Peak GiB"]
        lines += [*_table([batch, *head], rows), ""]
    return lines[:-1]


def _merging(step: Figures) -> list[str]:
    names = ("step_gained", "block_gained", "against_dense_block", "step_ms", "block_ms")
    rows = [(case, *(one[name] for name in names)) for case, one in step["merging"].items()]
    head = ["Merge step", "Block", "Dense block's time over the block's", "Step, ms", "Block, ms"]
    return _table(["Second block of DeiT-B", *head], rows)


def _parts(step: Figures) -> list[str]:
    rank, labels, scores = step["rank"], step["labels"], step["saliency"]
    rows = [
        ("effective rank of 4 images, ms", rank["svd"], rank["ours"]),
        ("labels of 32 windows from patch scores, ms", labels["straight"], labels["ours"]),
        ("saliency of 8 images in bfloat16: first batch, then, s", scores["first_s"], scores["then_s"]),
    ]
    lines = _table(["Part", "Direct implementation", "raycomp"], rows)
    return [*lines, "", f"Saliency takes {scores['peak_gib'] or 0:.1f} GiB at most."]


def _trial(step: Figures) -> list[str]:
    rows = [(name, one["first_s"], one["then_s"], one["trials_an_hour"]) for name, one in step["trials"].items()]
    lines = _table(["Recipe", "First trial, s", "Later trials, s", "Later trials per hour"], rows)
    if "card_ms" in step:
        kernels = {name: one for name, one in step["card_ms"].items() if not name.startswith(_NO_KERNEL)}
        top = [(f"`{name[:60]}`", count, ms) for name, (count, ms) in list(kernels.items())[:8]]
        lines += ["", *_table(["Longest kernels of the dense model", "Calls", "ms"], top)]
    return lines


def _compiled(step: Figures) -> list[str]:
    rows = [(name, one["graph"], one["compiled"], one["compilation_s"]) for name, one in step["compiled"].items()]
    return _table(["Batch 32", "Graph, ms", "Compiled, ms", "Compilation, s"], rows)


def _training(step: Figures) -> list[str]:
    resume = step.get("resume", {})
    lines = _table(["ViT-Ti, 8 images of 512 px", "Steps per second"], step["steps_per_second"].items())
    if resume:
        lines += ["", *_table(["Interrupted and resumed", ""], [(n.replace("_", " "), v) for n, v in resume.items()])]
    return lines


def _sweep(step: Figures) -> list[str]:
    names = ("trials", "trials_a_minute", "seconds_a_trial", "card_peak_gib")
    rows = [
        (step[way]["device"] or way, *(step[way][name] for name in names), len(step[way]["failed"]))
        for way in ("cuda", "cpu")
        if way in step
    ]
    return _table(["Device", "Trials", "Trials per minute", "Seconds per trial", "Peak GiB", "Failed"], rows)


def _tools(step: Figures) -> list[str]:
    memory = [
        (name, one.get("status", "ended the worker"), one.get("batch"), one.get("clean_miou"))
        for name, one in step["out_of_memory"].items()
    ]
    lines = _table(["Memory limit of the process", "Trial", "Batch", "Clean mIoU"], memory)
    rows = [
        (
            f"`{suffix}`",
            one["exit_code"],
            one.get("one_differs"),
            one.get("several_windows_differs"),
            one.get("said", ""),
        )
        for suffix, one in step.get("predict", {}).items()
    ]
    return [
        *lines,
        "",
        *_table(["`raycomp predict --device cuda`", "Exit code", "One window", "Several windows", "Message"], rows),
    ]


_SECTIONS: dict[str, tuple[str, str, str, Any]] = {
    "agreement": (
        "Agreement with the CPU",
        "The embedded default, with logits in float32 without TF32. CPU and GPU process the same images.",
        "logits",
        _agreement,
    ),
    "attention": (
        "Attention",
        "The bias is the logarithm of token sizes. `fused` is the kernel of `raycomp/kernels`; torch has the others.\n"
        "cuDNN's plans again for every shape, and merging gives every block a different one, so workers do not use it.",
        "attention",
        _attention,
    ),
    "models": (
        "DeiT-B at 512 px",
        "One pass up to labels in bfloat16, with random weights, and the same widths and number of merges in every\n"
        "block. The ratio is the speed gained over the FLOPs saved, with CUDA graphs.",
        "models",
        _models,
    ),
    "merging": (
        "Merging",
        "Speed relative to a direct implementation of the published algorithm, without CUDA graphs.",
        "merging",
        _merging,
    ),
    "parts": ("Parts of a trial", "DeiT-B at 512 px with 150 classes.", "rank", _parts),
    "trial": (
        "A trial",
        "DeiT-B at 512 px and 150 classes: 570 images of noise, 512x683, 1,140 windows, one worker.",
        "trials",
        _trial,
    ),
    "training": (
        "Training",
        "Eight processes load the images, to limit the effect of loading.",
        "steps_per_second",
        _training,
    ),
    "sweep": (
        "A sweep",
        "`jobs/pareto_search.py` on the embedded default, 40 trials: four share the card, or 16 the cores of its host.",
        "cuda",
        _sweep,
    ),
    "compiled": (
        "torch.compile",
        "Only for a finished model: in a search, every recipe would be compiled again. Compiled graphs do not use\n"
        "raycomp's kernels.",
        "compiled",
        _compiled,
    ),
    "tools": (
        "Exported models, and too little memory",
        "The embedded default, with 10 % of the tokens merged in each block.",
        "out_of_memory",
        _tools,
    ),
}
