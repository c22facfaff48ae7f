# SPDX-License-Identifier: Apache-2.0
"""Compare the rows of two sweeps column by column, to show that a code change changes no result.

    python jobs/pareto_search.py --workers 1 --trials 40 --results before   # in the old checkout
    python jobs/pareto_search.py --workers 1 --trials 40 --results after    # in the new one
    python benchmarks/compare_rows.py before/streetscenes_vit_micro after/streetscenes_vit_micro

Times, versions and the commit are ignored. It reads Parquet directly, so it can compare rows of any version.
"""

import io
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer

VARYING = {
    "started", "seconds", "seconds_build", "seconds_recover", "seconds_measure", "latency_ms", "throughput",
    "versions", "git_commit",
}  # fmt: skip
"""Columns that differ between two runs of the same code."""
KEY = ("stage", "recipe_id", "label", "seed")


def main(
    before: Annotated[Path, typer.Argument(help="Folder of a sweep.")],
    after: Annotated[Path, typer.Argument(help="Folder of the same sweep, run by other code.")],
    renamed: Annotated[list[str] | None, typer.Option(help="A renamed column: OLD=NEW.")] = None,
    reworded: Annotated[list[str] | None, typer.Option(help="A renamed value: COLUMN:OLD=NEW.")] = None,
) -> None:
    """Print the differences, and exit with code 1 if there are any."""
    names = dict(pair.split("=", 1) for pair in renamed or ())
    words = {}
    for text in reworded or ():
        column, _, pair = text.partition(":")
        words[column, pair.split("=", 1)[0]] = pair.split("=", 1)[1]
    old = {key_of(row): row for row in (_translated(row, names, words) for row in read(before))}
    new = {key_of(row): row for row in read(after)}
    problems = [f"{_title(key)}: only in {before}" for key in old.keys() - new.keys()]
    problems += [f"{_title(key)}: only in {after}" for key in new.keys() - old.keys()]
    compared = set()
    for key in old.keys() & new.keys():
        columns = (old[key].keys() | new[key].keys()) - VARYING
        compared |= columns
        for column in sorted(columns):
            was, is_now = old[key].get(column), new[key].get(column)
            if not same(was, is_now):
                problems.append(f"{_title(key)}: {column} {was!r:.80} became {is_now!r:.80}")
    for problem in sorted(problems):
        typer.echo(problem)
    typer.echo(f"{len(old)} and {len(new)} rows, {len(compared)} columns compared: {len(problems)} differences")
    raise typer.Exit(1 if problems else 0)


def read(folder: Path) -> list[dict[str, Any]]:
    """Read all rows of a sweep; a file may hold several."""
    return [row for file in sorted((folder / "trials").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(column) for column in KEY)


def same(one: Any, other: Any) -> bool:
    """Return whether two values are bitwise equal; NaN equals NaN, and archives are compared by their arrays."""
    if isinstance(one, bytes) and isinstance(other, bytes):
        first, second = np.load(io.BytesIO(one)), np.load(io.BytesIO(other))
        return set(first.files) == set(second.files) and all(np.array_equal(first[n], second[n]) for n in first.files)
    return repr(one) == repr(other)  # the shortest text that reads back as the same number


def _translated(row: dict[str, Any], names: dict[str, str], words: dict[tuple[str, str], str]) -> dict[str, Any]:
    """Return an old row under the new names and values."""
    result = {names.get(column, column): value for column, value in row.items()}
    for (column, text), new in words.items():
        if result.get(column) == text:
            result[column] = new
    return result


def _title(key: tuple[Any, ...]) -> str:
    return " ".join(str(part) for part in key if part not in (None, ""))


if __name__ == "__main__":
    typer.run(main)
