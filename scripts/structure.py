"""Prints the longest modules and functions; fails where one is over the bound. Part of `make check`."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
SHOWN = 5


def main() -> int:
    """0 if every module and function is within its bound."""
    modules: list[tuple[int, str]] = []
    functions: list[tuple[int, str]] = []
    for path in sorted(Path("src").rglob("*.py")):
        text = path.read_text()
        modules.append((text.count("\n"), str(path)))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                functions.append((lines, f"{path}:{node.lineno} {node.name}"))
    over = 0
    for title, rows, bound in (
        ("modules", modules, MODULE_LINES_MAX),
        ("functions", functions, FUNCTION_LINES_MAX),
    ):
        rows.sort(reverse=True)
        over += sum(lines > bound for lines, _ in rows)
        print(f"Longest {title} (at most {bound} lines):")
        for lines, name in rows[: max(SHOWN, sum(lines > bound for lines, _ in rows))]:
            print(f"  {lines:4d}  {name}{'  TOO LONG' if lines > bound else ''}")
    return int(over > 0)


if __name__ == "__main__":
    sys.exit(main())
