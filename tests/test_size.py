"""The budgets of the house: small functions, small modules, few parameters."""

from __future__ import annotations

import ast
import io
import statistics
import tokenize
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "bx"
FILES = sorted(SOURCE.rglob("*.py"))
SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(path):
    """The numbers of the lines that carry code: no blanks, comments or docstrings."""
    text = path.read_text()
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SKIPPED:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return lines


def functions(path):
    lines = code_lines(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = len(lines & set(range(node.lineno, node.end_lineno + 1)))
            arguments = node.args
            count = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
            yield node.name, size, count


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_function_is_longer_than_fifty_lines_or_takes_more_than_six_parameters(path):
    for name, size, count in functions(path):
        assert size <= 50, f"{name} has {size} lines of code"
        assert count <= 6, f"{name} takes {count} parameters"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_module_is_longer_than_four_hundred_lines(path):
    assert len(path.read_text().splitlines()) <= 400


def test_the_median_function_is_short():
    sizes = [size for path in FILES for _, size, _ in functions(path)]
    assert statistics.median(sizes) < 8, statistics.median(sizes)


def test_a_command_has_its_file_its_page_and_its_test():
    from bx.cli import COMMANDS

    root = SOURCE.parent.parent
    for name in COMMANDS:
        assert (SOURCE / "cli" / f"{name}.py").exists()
        assert (root / "docs" / f"{name}.md").exists()
        assert (root / "tests" / f"test_cli_{name}.py").exists()
