"""What a bench hands back, how it is printed, and how it is kept in docs/benchmarks.md."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil

START = "<!-- {} -->\n"
END = "<!-- end of {} -->\n"


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One table of results. Cells are texts; the first column is left-aligned, the others right-aligned."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(len(ordered) * percent / 100)) - 1]


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median and, in parentheses, the least and the greatest value."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def show(table: Table) -> str:
    """The table as aligned Markdown, which reads well in a terminal too."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[number]) for line in lines) for number in range(len(table.columns))]

    def row(cells: Sequence[str]) -> str:
        padded = [
            cells[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)),
        ]
        return f"| {' | '.join(padded)} |\n"

    rule = f"|{'|'.join(['-' * (widths[0] + 2), *('-' * (width + 1) + ':' for width in widths[1:])])}|\n"
    notes = "".join(f"\n{note}\n" for note in table.notes)
    return f"### {table.title}\n\n{row(table.columns)}{rule}{''.join(map(row, table.rows))}{notes}"


def machine() -> str:
    """The machine that the figures are of, and the day."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").open() if line.startswith("model name")),
        platform.machine(),
    )
    memory_gib = psutil.virtual_memory().total / 2**30
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return (
        f"{time.strftime('%Y-%m-%d')}: {psutil.cpu_count()} CPUs ({model}), {memory_gib:.0f} GiB of memory, "
        f"Linux {platform.release()}, Python {platform.python_version()}; load average at the start {load}."
    )


def keep(page: Path, name: str, heading: str, text: str) -> None:
    """Replaces the section of one bench in the page, or adds it at the end; the rest of the page stays as it is."""
    start, end = START.format(name), END.format(name)
    section = f"{start}## {heading}\n\n{text}{end}"
    whole = page.read_text()
    before, found, rest = whole.partition(start)
    if found:
        _old, _end, after = rest.partition(end)
        page.write_text(before + section + after)
    else:
        page.write_text(whole.rstrip("\n") + "\n\n" + section)
