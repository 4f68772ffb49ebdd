"""Runs docs/tutorial.md like a notebook: `python tests/tutorial.py` writes the outputs anew (part of `make docs`).

Every python block runs in order in one namespace, in an empty folder. What it prints, and the value of its last line
when that is an expression, stand in the text block that follows it.
"""

import ast
import os
import re
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from pprint import pformat
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tutorial.md"
CELL = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<output>.*?)```\n)?", re.DOTALL)


def executed(text: str) -> str:
    """The page with every output as it is now."""
    names: dict[str, Any] = {"__name__": "tutorial"}
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            return CELL.sub(lambda cell: _cell(cell["code"], names), text)
        finally:
            os.chdir(here)


def _cell(code: str, names: dict[str, Any]) -> str:
    output = run(code, names)
    shown = f"\n```text\n{output}```\n" if output else ""
    return f"```python\n{code}```\n{shown}"


def run(code: str, names: dict[str, Any]) -> str:
    """What a block prints, and its last value as a notebook shows it."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = StringIO()
    with redirect_stdout(printed):
        exec(compile(tree, "tutorial.md", "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), "tutorial.md", "eval"), names)
        if value is not None:
            print(value if isinstance(value, str) else pformat(value, width=110, sort_dicts=False))
    return printed.getvalue()


if __name__ == "__main__":
    PAGE.write_text(executed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
