"""What the documentation says is what happens: its examples are run, its links lead somewhere."""

from __future__ import annotations

import doctest
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (.*?)\n(.*?)(?=^\$ |\Z)", re.MULTILINE | re.DOTALL)


def blocks(kind):
    """Each block of a kind in the docs, with a name for the report."""
    for page in PAGES:
        for number, (language, body) in enumerate(BLOCK.findall(page.read_text())):
            if language == kind:
                yield pytest.param(body, id=f"{page.name}-{number}")


@pytest.fixture
def shell(tmp_path):
    """Run a line as a user's shell would, with `bx` on the path and the examples at hand."""
    (tmp_path / "bx").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bx "$@"\n')
    (tmp_path / "bx").chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def run(line):
        done = subprocess.run(
            ["bash", "-c", line],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environ,
            cwd=ROOT,
            timeout=60,
            check=False,
        )
        return done.stdout

    return run


@pytest.mark.skipif(os.name == "nt", reason="the examples are lines for a POSIX shell")
@pytest.mark.parametrize("block", list(blocks("console")))
def test_a_console_example_prints_what_the_page_shows(block, shell):
    commands = COMMAND.findall(block)
    assert commands, "a console block shows a command after `$ `"
    for line, expected in commands:
        printed = shell(line)
        same = doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS)
        assert same, f"$ {line}\n--- the page says\n{expected}\n--- it prints\n{printed}"


@pytest.mark.parametrize("block", list(blocks("python")))
def test_a_python_example_runs(block, tmp_path):
    command = [sys.executable, "-W", "error", "-c", block]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_the_tests_that_the_docs_show_pass(tmp_path):
    pytest.importorskip("uvicorn", reason="the fixture starts a server")
    shown = [body for body in BLOCK.findall((ROOT / "docs" / "serve.md").read_text()) if "bx_bedrock" in body[1]]
    (tmp_path / "test_shown.py").write_text("".join(body for language, body in shown if language == "python"))
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:bx", "-p", "bx.fixtures", "-W", "error"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_the_project_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_model_has_its_line_in_the_docs():
    from bx import capabilities
    from bx.catalogue import Catalogue

    page = (ROOT / "docs" / "models.md").read_text()
    for alias, entry in Catalogue().models.items():
        row = next((line for line in page.splitlines() if line.startswith(f"| `{alias}` |")), "")
        assert f"`{entry['id']}`" in row, alias
        assert all(geo in row for geo in entry.get("geos", [])), alias
        assert ("yes" in row.split("|")[4]) == capabilities.plan(entry["id"]).enforced, alias


@pytest.mark.parametrize("command", ["ask", "chat", "doctor", "log", "models", "schema", "serve", "usage"])
def test_every_option_has_its_line_in_the_docs(command):
    from bx.cli import parser

    page = (ROOT / "docs" / f"{command}.md").read_text()
    for action in parser(command)._actions:
        for option in action.option_strings:
            assert re.search(rf"^\|.*`{re.escape(option)}[ `]", page, re.MULTILINE), option


def test_every_dependency_has_its_reason():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs" / "dependencies.md").read_text()
    for requirement in itertools.chain(project["dependencies"], *project["optional-dependencies"].values()):
        name = re.match(r"[\w-]+", requirement)[0]
        assert f"`{name}`" in page, requirement
