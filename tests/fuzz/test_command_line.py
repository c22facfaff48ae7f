# SPDX-License-Identifier: Apache-2.0
"""Paths, options and environments that nobody planned for, through the command line."""

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from subprocess import run

import yaml
from hypothesis import given
from hypothesis import strategies as st

from raycomp.cluster import address
from tests.fuzz.conftest import FUZZ, FUZZ_LITTLE
from tests.helpers.answers import SECONDS, Given, answer, command, place, untouched
from tests.helpers.strategies import NAMES, ODD_NAMES, SPACE

_KINDS = st.sampled_from(["right", "right", "link", "dangling", "loop", "file", "folder", "none"])
_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10)
_VALUES = st.one_of(
    ODD_NAMES,
    _TEXT,
    st.sampled_from(
        ["0", "-1", "40%", "nan", "inf", "1e400", "1,2", ",", "a=0.3", "=", "100%", "5", "0.001", "9" * 20, "road=0.2",
         "pole=nan", "s3://", "s3://a b/c", "file:///", "http://x", "gs://x?y=z", "../..", "/dev/null", "."]
    ),
)  # fmt: skip


def _put(path: Path, kind: str, right: Path) -> None:
    """What lies at a path: the right file or folder, a link, something else, or nothing."""
    with suppress(OSError, UnicodeError):  # a name that this file system does not have
        match kind:
            case "right":
                (shutil.copytree if right.is_dir() else shutil.copy)(right, path)
            case "link":
                path.symlink_to(right)
            case "dangling":
                path.symlink_to("nothing")
            case "loop":
                path.symlink_to(path.name)
            case "file":
                path.write_bytes(b"nothing")
            case "folder":
                path.mkdir()


@FUZZ
@given(name=ODD_NAMES, kind=_KINDS, out=ODD_NAMES, out_kind=_KINDS, data=st.data())
def test_paths(name, kind, out, out_kind, data, given_files: Given):
    """A file or folder of any name and kind, for what is read and for what is written."""
    sweeps = [[command] for command in ("front", "status", "report", "compare", "pick", "explain", "track", "compact")]
    what = data.draw(st.sampled_from([*sweeps, ["profile"], ["predict"], ["predict", "model"], ["explain", "file"]]))
    with place() as folder:
        (folder / "given").mkdir()
        (folder / "out/real").mkdir(parents=True)
        path, written = Path("in") / name, Path("out") / out
        path.parent.mkdir()
        (folder / "given/space.yaml").write_text(
            yaml.safe_dump(SPACE | {"model": {"checkpoint": str(given_files.folder / "export.safetensors")}})
        )
        shutil.copy(given_files.folder / "recipe.json", folder / "given")
        shutil.copytree(given_files.folder / "results", folder / "given/results")
        (folder / "given/images").mkdir()
        shutil.copy(given_files.folder / "x.png", folder / "given/images")
        outputs: tuple[str, ...] = ("out", "cache")
        model = str(given_files.folder / "export.safetensors")
        match what:
            case ["profile"]:
                right, arguments = "space.yaml", ["profile", "--", str(path)]
            case ["explain", "file"]:
                right, arguments = "recipe.json", ["explain", "--space", "given/space.yaml", "--", str(path)]
            case ["predict"]:
                right, arguments = "images", ["predict", "--out", str(written), "--", model, str(path)]
            case ["predict", "model"]:
                shutil.copy(model, folder / "given/model.safetensors")
                right, arguments = (
                    "model.safetensors",
                    ["predict", "--out", str(written), "--", str(path), "given/images/x.png"],
                )
            case [verb]:
                right = "results"
                more = {
                    "compare": ["tiny"],
                    "pick": ["--max-share", "90%"],
                    "report": ["--out", f"{written}.html"],
                }.get(verb, [])
                first = given_files.recipe[:6] if verb == "explain" else "tiny"
                arguments = [verb, *more, "--results", str(path), "--", first]
                if verb in ("track", "compact"):
                    outputs = (*outputs, "in", "given")
        _put(path, kind, folder / "given" / right)
        _put(written, out_kind, folder / "out/real")
        with untouched(folder, outputs):
            command(arguments)


_OPTIONS = {
    "front": ["--json"],
    "status": ["--json"],
    "report": ["--json"],
    "compare": ["--json"],
    "pick": ["--max-gflops", "--max-share", "--max-drop", "--max-clean-drop", "--max-corrupted-drop",
             "--min-class-iou", "--max-params", "--max-ms", "--max-memory", "--max-file", "--speed", "--json"],
    "explain": ["--sweep", "--space", "--json"],
    "profile": ["--budget", "--tome", "--cts", "--json"],
    "predict": ["--device", "--labels", "--json"],
    "export": ["--formats", "--sweep"],
    "speed": ["--batch", "--runtime", "--dtype", "--threads", "--rounds", "--device", "--compile"],
}  # fmt: skip
_FLAGS = ("--json", "--labels", "--compile", "--help")


@FUZZ
@given(
    data=st.data(),
    verb=st.sampled_from(sorted(_OPTIONS)),
    first=st.one_of(st.just("tiny"), st.just("space.yaml"), _VALUES),
)
def test_options(data, verb, first, given_files: Given):
    arguments = [verb]
    for option in data.draw(st.lists(st.sampled_from([*_OPTIONS[verb], "--help", "--wrong"]), max_size=3)):
        arguments += [option] if option in _FLAGS else [option, data.draw(_VALUES)]
    arguments += data.draw(st.sampled_from([[], [first], ["tiny", first], [f"--{first}"]]))
    with place() as folder:
        shutil.copytree(given_files.folder / "results", folder / "results")
        (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
        (folder / "results/tiny/report.html").write_text("")  # which a report may replace
        with untouched(folder, ("out", "cache", "predictions") + (("results",) if verb == "report" else ())):
            command(arguments)


# Without _RAYCOMP_COMPLETE, by which a shell asks for completions in place of a command; typer answers that.
_ENVIRONMENT = st.dictionaries(
    st.sampled_from(
        ["COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR", "TMPDIR", "RAYCOMP_CACHE", "RAY_ADDRESS", "HOME", "TZ",
         "XDG_CACHE_HOME", "LC_ALL", "TTY_COMPATIBLE", "MPLCONFIGDIR", "MLFLOW_TRACKING_URI"]
    ),
    st.one_of(
        st.none(),
        st.sampled_from(["", "0", "-5", "1", "7", "80", "99999", "dumb", "C", "xx_YY.bad", "/dev/null", "out", "1e9"]),
        NAMES,
    ),
    max_size=4,
)  # fmt: skip


def _verbs(given_files: Given) -> list[list[str]]:
    results, model = str(given_files.folder / "results"), str(given_files.folder / "export.safetensors")
    return [
        ["front", "tiny", "--results", results],
        ["status", "--results", results],
        ["report", "tiny", "--results", results, "--out", "out/r.html"],
        ["compare", "tiny", "tiny", "--results", results],
        ["pick", "tiny", "--max-share", "80%", "--results", results],
        ["explain", str(given_files.folder / "recipe.json"), "--space", "space.yaml"],
        ["profile", "space.yaml"],
        ["predict", model, str(given_files.folder / "x.png"), "--out", "out"],
        ["--help"],
        ["pick", "--help"],
        [],
    ]


@FUZZ
@given(environment=_ENVIRONMENT, encoding=st.sampled_from(["utf-8", "ascii", "latin-1", "cp1252"]), data=st.data())
def test_environments(environment, encoding, data, given_files: Given):
    arguments = data.draw(st.sampled_from(_verbs(given_files)))
    with place() as folder:
        (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
        with untouched(folder):
            code, said = command(arguments, environment, encoding)
    if "TMPDIR" not in environment:
        assert code == 0 or not arguments, said


@FUZZ_LITTLE
@given(environment=_ENVIRONMENT, data=st.data())
def test_environments_of_a_process(environment, data, given_files: Given):
    """What Python reads as it starts: its encoding, locale, home and temporary folder."""
    encodings = st.sampled_from([None, "ascii", "utf-8", "latin-1:strict", "utf-16", "cp437"])
    given = environment | {
        "PYTHONIOENCODING": data.draw(encodings),
        "LC_ALL": data.draw(st.sampled_from([None, "C", "x"])),
    }
    arguments = data.draw(st.sampled_from([v for v in _verbs(given_files) if v[:1] not in (["predict"], ["report"])]))
    with place() as folder:
        (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
        with untouched(folder):
            kept = {k: v for k, v in os.environ.items() if k not in given} | {
                k: v for k, v in given.items() if v is not None
            }
            done = run(
                [sys.executable, "-c", "from raycomp.cli import run; run()", *arguments],
                env=kept,
                capture_output=True,
                timeout=2 * SECONDS,
                check=False,
            )
    assert done.returncode in (0, 2), done.stderr
    assert b"Traceback" not in done.stderr


@FUZZ
@given(text=st.one_of(_TEXT, st.from_regex(r"\A(ray://|http://|)[a-z0-9.\[\]:@-]{1,12}(:[0-9]{0,6})?\Z")))
def test_addresses_of_ray(text):
    with place() as folder, untouched(folder):
        os.environ["RAY_ADDRESS"] = text

        def check() -> None:
            there = address.joined()
            if there is not None:
                there.check()

        answer(check)
