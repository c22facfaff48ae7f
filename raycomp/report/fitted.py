"""Tables that fit the terminal: where it is narrow, columns stand one under another; no figure is ever cut."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_FOLDED = 24  # columns that a text keeps at least; any recipe's name fits in them
_AROUND = 3  # two blanks and a line beside each column; one more line ends the table

Stacks = Sequence[Sequence[int]]
"""Columns by index; those of one stack stand one under another."""


@dataclass(frozen=True)
class Column:
    """A column: a figure, right-aligned and never broken, or a text."""

    name: str
    text: bool = False
    """Left-aligned, and folded where it is long."""
    under: str = ""
    """The column that this one may stand under."""
    optional: bool = False
    """Left out where the table does not fit with it."""


@dataclass
class FittedTable:
    """A table that chooses its layout when it is printed: in full, with broken names, or with stacked columns."""

    title: str
    columns: Sequence[Column]
    caption: str = ""
    with_names: bool = True
    rows: list[tuple[tuple[str, ...], str]] = field(default_factory=list)
    """Cells and style of each row."""
    sections: set[int] = field(default_factory=set)
    """Numbers of rows that a line follows."""

    def add_row(self, *cells: str, style: str = "") -> None:
        """Add a row with a cell for each column."""
        self.rows.append((cells, style))

    def add_section(self) -> None:
        """Draw a line under the rows so far."""
        self.sections.add(len(self.rows))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for stacks, whole in self._layouts():
            table = self._drawn(stacks, whole)
            if sum((column.min_width or 0) + _AROUND for column in table.columns) < options.max_width:
                break
        yield table

    def _layouts(self) -> Iterator[tuple[Stacks, bool]]:
        """Layouts from the widest to the narrowest, and whether names and texts stay whole in them."""
        every = range(len(self.columns))
        needed = [index for index in every if not self.columns[index].optional]
        yield [[index] for index in every], True
        yield [[index] for index in every], False
        yield [[index] for index in needed], False
        groups: dict[str, list[int]] = {}
        for index in needed:
            groups.setdefault(self.columns[index].under or self.columns[index].name, []).append(index)
        highest = max(map(len, groups.values()))
        for height in range(2, len(needed) + 1):
            stacked = groups.values() if height <= highest else [needed]
            yield sorted(stack for group in stacked for stack in _split(group, height)), False

    def _drawn(self, stacks: Stacks, whole: bool) -> Table:
        table = Table(title=self.title, title_justify="left", show_header=self.with_names)
        table.caption, table.caption_justify = self.caption or None, "left"
        height = max(map(len, stacks))
        table.show_lines = height > 1
        for stack in stacks:
            columns = [self.columns[index] for index in stack]
            name = columns[0].name
            if height > 1:  # names are set from below, cells from above
                name = "\n".join(column.name.strip("\n") for column in columns) + "\n " * (height - len(stack))
            elif not whole and "\n" not in name:
                name = name.replace(" ", "\n")
            least = max(self._least(index, whole) for index in stack)
            table.add_column(
                Text(name),
                justify="left" if columns[0].text else "right",
                overflow="fold",
                no_wrap=not any(column.text for column in columns),
                min_width=max(least, _width(name) if self.with_names else 0),
            )
        for number, (cells, style) in enumerate(self.rows, start=1):
            shown = ("\n".join(cells[index] for index in stack) for stack in stacks)
            table.add_row(*map(Text, shown), style=style, end_section=number in self.sections)
        return table

    def _least(self, index: int, whole: bool) -> int:
        """Least width of a column's cells."""
        width = max((_width(cells[index]) for cells, _ in self.rows), default=0)
        return min(width, _FOLDED) if self.columns[index].text and not whole else width


def _split(group: Sequence[int], height: int) -> list[list[int]]:
    """Stacks of at most this height, as even as can be."""
    count = -(-len(group) // height)
    ends = [round(part * len(group) / count) for part in range(count + 1)]
    return [list(group[start:end]) for start, end in pairwise(ends)]


def _width(text: str) -> int:
    return max(map(cell_len, text.split("\n")))
