"""`bx completion`: real shells complete commands, options, models and files."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHELLS = ("bash", "zsh", "fish")
# What is typed -> what is offered, and what is not.
LINES = {
    "bx pu": (["pull"], ["completion"]),
    "bx ask -m no": (["nova", "nova-micro", "nova-pro"], ["claude"]),
    "bx -m cl": (["claude"], ["nova"]),
    "bx --model=cl": (["claude"], ["nova"]),
    "bx -m my": (["my-own"], []),
    "bx --max": (["--max-tokens"], ["--model"]),
    "bx ask --ra": (["--raw", "--raw-output"], ["--region"]),
    "bx --geo e": (["eu"], ["us"]),
    "bx --json inc": (["incident.json"], ["notes.txt"]),
    "bx pull --fr": (["--from"], ["--list"]),
    "bx pull --from no": (["notes.txt"], ["incident.json"]),
    "bx completion ": (["bash", "fish", "zsh"], ["ask"]),
    "bx -m nova pu": ([], ["pull"]),
    "bx schema che": (["check"], ["fix"]),
    "bx schema check inc": (["incident.json"], ["notes.txt"]),
    "bx schema check a --fo": (["--for", "--format"], ["--json"]),
    "bx schema check a --for cl": (["claude"], ["nova"]),
}


@pytest.fixture
def folder(tmp_path, private_home, monkeypatch):
    """A folder with some files and a model of its own, and `bx` on the path."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bx").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bx "$@"\n')
    (tmp_path / "bin" / "bx").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "incident.json").write_text("{}")
    (here / "notes.txt").write_text("")
    (here / "bx.toml").write_text('[models.my-own]\nid = "acme.own"\n')
    return here


def shell(name, *arguments, **more):
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([name, *arguments], capture_output=True, text=True, timeout=60, check=False, **more)
    assert not done.stderr
    return done.stdout


def assert_offered(offered, line):
    expected, unexpected = LINES[line]
    assert set(expected) <= offered
    assert not set(unexpected) & offered


def test_bash_completes(folder):
    # What bash does at the TAB key: it splits the line, and calls the function that `complete` has registered.
    script = """
    source <(bx completion bash)
    for COMP_LINE in "$@"; do
        COMP_POINT=${#COMP_LINE} COMP_TYPE=9 COMP_KEY=9 COMPREPLY=()
        eval "$(complete -p bx | sed 's/.*-F \\([^ ]*\\).*/function=\\1/')"
        read -ra COMP_WORDS <<< "$COMP_LINE"
        $function bx
        (IFS='|'; echo "${COMPREPLY[*]}")
    done
    """
    answers = shell("bash", "--norc", "-c", script, "bash", *LINES).splitlines()
    for line, answer in zip(LINES, answers, strict=True):
        assert_offered({word.strip() for word in answer.split("|")}, line)


def test_fish_completes(folder):
    script = "bx completion fish | source\nfor line in $argv\n complete --do-complete $line; echo =\nend"
    answers = shell("fish", "--private", "--no-config", "-c", script, *LINES).split("=\n")
    for line, answer in zip(LINES, answers, strict=False):
        words = {offer.split("\t")[0] for offer in answer.splitlines()}
        assert_offered(words | {word.removeprefix("--model=") for word in words}, line)


@pytest.mark.parametrize("way", ["sourced", "in a folder of fpath"])
@pytest.mark.parametrize(("typed", "completed"), [("bx pu", "bx pull"), ("bx ask -m cl", "bx ask -m claude")])
def test_zsh_completes(folder, way, typed, completed):
    # zsh completes only where keys are pressed, so they are: TAB, and then the line is turned into an echo of itself.
    start = "autoload -Uz compinit; compinit -D -u"
    if way == "sourced":
        start += '; eval "$(bx completion zsh)"'
    else:
        (folder / "functions").mkdir()
        (folder / "functions" / "_bx").write_text(shell("zsh", "-c", "bx completion zsh"))
        start = f"fpath=({folder / 'functions'} $fpath); {start}"
    screen = pressed(
        ["zsh", "-f", "-i"],
        (f"{start}; bindkey -e; print rea''dy\n", "ready\r"),
        (f"{typed}\t\x01print -r -- 'now: \x05'; exit\n", None),
    )
    assert f"now: {completed}\r\n" in screen


def pressed(command, *keys):
    """Start a shell on a terminal and press keys, each time waiting for a text; return what the screen has shown."""
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    pty = pytest.importorskip("pty")
    near, far = pty.openpty()
    environ = {**os.environ, "TERM": "dumb"}
    with subprocess.Popen(command, stdin=far, stdout=far, stderr=far, env=environ, start_new_session=True) as process:
        os.close(far)
        screen = ""
        for key, awaited in keys:
            os.write(near, key.encode())
            with contextlib.suppress(OSError):  # how Linux says that a terminal has ended
                while awaited is None or awaited not in screen:
                    assert select.select([near], [], [], 30)[0], screen
                    shown = os.read(near, 65536)
                    if not shown:
                        break
                    screen += shown.decode(errors="replace")
        process.wait(30)
    os.close(near)
    return screen


@pytest.mark.parametrize("name", SHELLS)
def test_the_script_is_one_that_the_shell_can_read(name, bx, tmp_path):
    script = tmp_path / "script"
    script.write_text(bx("completion", name).stdout)
    shell(name, "-n", str(script))


def test_completion_with_broken_settings_offers_what_is_known_without_them(folder):
    (folder / "bx.toml").write_text("model = ")
    line = "bx -m no"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    assert shell("bash", "-c", "bx 8>&1 9>/dev/null", env={**os.environ, **asked}).split("\v")[0] == "nova"


@pytest.mark.parametrize(("arguments", "told"), [([], "required"), (["tcsh"], "tcsh")])
def test_a_shell_that_is_missing_or_unknown_is_a_usage_error(arguments, told, bx):
    done = bx("completion", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "bx completion --help" in done.stderr


def test_the_page_and_the_help_say_where_each_script_goes(bx):
    page = (Path(__file__).parent.parent / "docs" / "completion.md").read_text("utf-8")
    told = bx("completion", "--help").stdout
    for name in SHELLS:
        assert f"bx completion {name}" in told
        assert f"bx completion {name}" in page
