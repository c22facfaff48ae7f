# SPDX-License-Identifier: Apache-2.0
"""Tables that fit the terminal: a narrow one stacks columns. Numbers are never truncated."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_FOLDED = 24  # minimum width of a text column, which fits the name of any recipe
_BORDER = 3  # width of two blanks and a line beside each column

Stacks = Sequence[Sequence[int]]
"""Column indices; the columns of a stack are printed one below another."""


@dataclass(frozen=True)
class Column:
    """A column of numbers, right-aligned and never broken, or of text."""

    name: str
    text: bool = False
    """Text: left-aligned, and folded if long."""
    under: str = ""
    """Name of the column that this one may be stacked under."""
    optional: bool = False
    """Left out if the table does not fit with it."""


@dataclass
class FittedTable:
    """A table that chooses its layout when printed: one line per row, folded column names, or stacked columns."""

    title: str
    columns: Sequence[Column]
    caption: str = ""
    with_names: bool = True
    rows: list[tuple[tuple[str, ...], str]] = field(default_factory=list)
    """Cells and style of each row."""
    sections: set[int] = field(default_factory=set)
    """Row numbers, from 1, after which a line is drawn."""

    def add_row(self, *cells: str, style: str = "") -> None:
        """Add a row with a cell for each column."""
        self.rows.append((cells, style))

    def add_section(self) -> None:
        """Draw a line under the rows so far."""
        self.sections.add(len(self.rows))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for stacks, unfolded in self._layouts():
            table = self._drawn(stacks, unfolded)
            if sum((column.min_width or 0) + _BORDER for column in table.columns) < options.max_width:
                break
        yield table

    def _layouts(self) -> Iterator[tuple[Stacks, bool]]:
        """Yield layouts from the widest to the narrowest, and whether their names and texts are unfolded."""
        every = range(len(self.columns))
        required = [index for index in every if not self.columns[index].optional]
        yield [[index] for index in every], True
        yield [[index] for index in every], False
        yield [[index] for index in required], False
        groups: dict[str, list[int]] = {}
        for index in required:
            groups.setdefault(self.columns[index].under or self.columns[index].name, []).append(index)
        highest = max(map(len, groups.values()))
        for height in range(2, len(required) + 1):
            stacked = groups.values() if height <= highest else [required]
            yield sorted(stack for group in stacked for stack in _split(group, height)), False

    def _drawn(self, stacks: Stacks, unfolded: bool) -> Table:
        table = Table(title=self.title, title_justify="left", show_header=self.with_names)
        table.caption, table.caption_justify = self.caption or None, "left"
        height = max(map(len, stacks))
        table.show_lines = height > 1
        for stack in stacks:
            columns = [self.columns[index] for index in stack]
            name = columns[0].name
            if height > 1:  # pad names below, because headers are aligned at the bottom and cells at the top
                name = "\n".join(column.name.strip("\n") for column in columns) + "\n " * (height - len(stack))
            elif not unfolded and "\n" not in name:
                name = name.replace(" ", "\n")
            minimum = max(self._minimum_width(index, unfolded) for index in stack)
            table.add_column(
                Text(name),
                justify="left" if columns[0].text else "right",
                overflow="fold",
                no_wrap=not any(column.text for column in columns),
                min_width=max(minimum, _width(name) if self.with_names else 0),
            )
        for number, (cells, style) in enumerate(self.rows, start=1):
            shown = ("\n".join(cells[index] for index in stack) for stack in stacks)
            table.add_row(*map(Text, shown), style=style, end_section=number in self.sections)
        return table

    def _minimum_width(self, index: int, unfolded: bool) -> int:
        """Return the minimum width of a column's cells."""
        width = max((_width(cells[index]) for cells, _ in self.rows), default=0)
        return min(width, _FOLDED) if self.columns[index].text and not unfolded else width


def _split(group: Sequence[int], height: int) -> list[list[int]]:
    """Split a group into stacks of at most this height, as even as possible."""
    count = -(-len(group) // height)
    ends = [round(part * len(group) / count) for part in range(count + 1)]
    return [list(group[start:end]) for start, end in pairwise(ends)]


def _width(text: str) -> int:
    return max(map(cell_len, text.split("\n")))
