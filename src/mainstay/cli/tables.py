"""Rows for people: a table where it fits the terminal, else a block of lines for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_BETWEEN_COLUMNS = 3


def show_table(console: Console, rows: Sequence[Mapping[str, str]], title: str = "") -> None:
    """Prints the rows, which all have the columns of the first; a column in which nothing stands is left out."""
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    widths = [max(map(cell_len, (column, *(row[column] for row in rows)))) for column in columns]
    if sum(widths) + _BETWEEN_COLUMNS * len(widths) + 1 <= console.width:
        console.print(_table(rows, columns, title))
    else:
        _show_blocks(console, rows, columns, title)


def _table(rows: Sequence[Mapping[str, str]], columns: Sequence[str], title: str) -> Table:
    table = Table(title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(row[column]) for column in columns))
    return table


def _show_blocks(console: Console, rows: Sequence[Mapping[str, str]], columns: Sequence[str], title: str) -> None:
    if title:
        console.print(Text(title, style="italic"))
    width = max(map(cell_len, columns))
    for row in rows:
        block = Table.grid(padding=(0, 2))
        block.add_column(min_width=width)
        block.add_column(overflow="fold")
        for column in columns:
            if row[column]:
                block.add_row(Text(column, style="bold"), Text(row[column]))
        console.print(block, "")
