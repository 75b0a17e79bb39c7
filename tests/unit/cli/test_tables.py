"""Rows for people, in wide and in narrow terminals."""

from __future__ import annotations

import io

from rich.console import Console

from mainstay.cli.tables import show_table

ROWS = [
    {"instance": "shop", "status": "active", "gap": "", "restorable": "2026-11-30 04:28:31Z to 2026-11-30 04:29:31Z"},
    {"instance": "orders [old]", "status": "retained", "gap": "", "restorable": ""},
]


def shown(width: int) -> list[str]:
    output = io.StringIO()
    show_table(Console(file=output, width=width, color_system=None), ROWS, "Backups")
    return [line.rstrip() for line in output.getvalue().splitlines()]


def test_a_table_where_it_fits_without_empty_columns() -> None:
    lines = shown(100)
    assert lines[0] == "Backups" and "gap" not in "".join(lines)
    assert [line for line in lines if "shop" in line and "04:29:31Z" in line], "a row is one line"
    assert [line for line in lines if "orders [old]" in line and "retained" in line]


def test_a_block_for_each_row_where_it_does_not() -> None:
    assert shown(70) == [
        "Backups",
        "instance    shop",
        "status      active",
        "restorable  2026-11-30 04:28:31Z to 2026-11-30 04:29:31Z",
        "",
        "instance    orders [old]",
        "status      retained",
        "",
    ]
