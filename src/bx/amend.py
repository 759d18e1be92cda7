"""The user's configuration file, amended: entries of `models` are written and removed, and all else stays as it is.

Comments and order are kept. The file is replaced in one step, keeps its permissions, and is readable by the user only
where it is new. What could not be read again is not written. This module knows no settings and no models.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

_MODELS = "models"


class AmendError(ValueError):
    """A file cannot be amended; `fix` says what to do."""

    exit_code = 2

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def set_model(file: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Write the entry `[models.NAME]`.

    Where it is there for the same id, its other keys stay; for another id they would be wrong, and go.

    Raises:
        AmendError: the file cannot be read, is not valid TOML, or cannot be written.
    """

    def change(document: MutableMapping[str, Any]) -> None:
        import tomlkit

        if _MODELS not in document:
            document[_MODELS] = tomlkit.table(is_super_table=True)
        _put(document[_MODELS], name, entry)

    _amend(file, change)


def unset_model(file: Path, name: str) -> bool:
    """Remove the entry `[models.NAME]`, with what is below it; return whether it was there.

    Raises:
        AmendError: as `set_model` does.
    """
    removed = False

    def change(document: MutableMapping[str, Any]) -> None:
        nonlocal removed
        if name in document.get(_MODELS, ()):
            del document[_MODELS][name]
            removed = True

    _amend(file, change)
    return removed


def _put(models: MutableMapping[str, Any], name: str, entry: Mapping[str, Any]) -> None:
    import tomlkit
    from tomlkit.items import InlineTable

    if name not in models:
        table = tomlkit.inline_table() if isinstance(models, InlineTable) else tomlkit.table()
        table.update(entry)
        models[name] = table
        return
    present = models[name]
    if present.get("id") != entry.get("id"):
        for key in [key for key in present if key not in entry]:
            del present[key]
    present.update(entry)


def _amend(file: Path, change: Callable[[MutableMapping[str, Any]], None]) -> None:
    """Read a file, change it, and write it where what it says has changed, and in no other way."""
    import tomllib

    try:
        before = file.read_bytes().decode() if file.exists() else ""
        wanted = tomllib.loads(before)
    except OSError as cause:
        raise AmendError(f"{file} cannot be read: {cause.strerror}", "Make the file readable") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise AmendError(f"{file} is not valid TOML: {cause}", "Correct the file at that place") from None
    if not isinstance(wanted.get(_MODELS, {}), dict):
        raise AmendError(f"{file}: models must be tables", 'Write [models.NAME] and below it id = "..."')
    after = _changed(before, change)
    change(wanted)
    if after is None or {_MODELS: {}, **tomllib.loads(after)} != {_MODELS: {}, **wanted}:
        message = f"{file} has a form that cannot be amended without loss"
        raise AmendError(message, "Write the models in it as tables, [models.NAME], or change it by hand")
    if after == before:
        return
    try:
        _replace(file.resolve(), after.encode())  # a link to a file elsewhere stays a link
    except OSError as cause:
        raise AmendError(f"{file} cannot be written: {cause.strerror}", "Make its folder writable") from None


def _changed(before: str, change: Callable[[MutableMapping[str, Any]], None]) -> str | None:
    """Change the text of a file; None where tomlkit stumbles over its form, as over dotted keys of several levels."""
    import tomllib

    import tomlkit

    try:
        document = tomlkit.parse(before)
        change(document)
        after = tomlkit.dumps(document)
        tomllib.loads(after)
    except Exception:  # noqa: BLE001 # whatever it is, the file must not be written
        return None
    return after


def _replace(file: Path, content: bytes) -> None:
    """Replace a file in one step; a new one is readable by the user only."""
    file.parent.mkdir(0o700, parents=True, exist_ok=True)
    descriptor, new = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as written:
            if file.exists():
                Path(new).chmod(file.stat().st_mode & 0o777)
            written.write(content)
            written.flush()
            os.fsync(written.fileno())
        Path(new).replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(new).unlink()
        raise
