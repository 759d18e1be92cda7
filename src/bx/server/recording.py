"""Record and replay: two wrappers of a `Perform`.

An exchange is stored when it is over, as a file of its own. An answer that broke, or that nobody waited for until its
end, is not stored: a part of an answer is never played back as a whole one. `cassette` knows what a file has in it.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from bx.converse import error
from bx.instances import canonical, json_path
from bx.server import cassette, wire
from bx.server.cassette import RecordingError
from bx.server.exchange import Act

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from bx.server.cassette import Recording, Timed
    from bx.server.exchange import Call, Perform, Reply

_log = logging.getLogger("bx.server")

_NAME = re.compile(r".*-(\d+)\.json")
_NAMED = 3  # of recordings or of members, in the text of a miss


# ---- record ---------------------------------------------------------------------------------------------------


def recorded(perform: Perform, folder: Path) -> Perform:
    """Store each exchange in a folder, as `<operation>-<hash>-<n>.json`; an error as the reply that it becomes.

    Repeated requests are numbered, after those that are in the folder. What cannot be stored is warned of once, and
    answered all the same.

    Raises:
        RecordingError: there is no such folder and it cannot be made.
    """
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as cause:
        text = f"Recordings cannot be kept in {folder}: {cause.strerror}"
        raise RecordingError(text, "Choose a folder that you may write to") from None
    shelf = _Shelf(folder)

    def recording(call: Call) -> Reply:
        began = time.monotonic()
        try:
            reply = perform(call)
        except ClientError as failed:
            call.received.notes["code"] = failed.response["Error"]["Code"]
            reply = wire.failure(failed)
        if isinstance(reply.body, bytes):
            shelf.put(call, reply, [(time.monotonic() - began, reply.body)])
            return reply
        return reply._replace(body=_Recorded(reply.body, began, lambda pieces: shelf.put(call, reply, pieces)))

    return recording


class _Recorded:
    """A body that is stored when it has come to its end. Another thread may close it."""

    def __init__(self, body: Iterable[bytes | Act], began: float, store: Callable[[Timed], None]) -> None:
        self._body = body
        self._began = began
        self._store = store
        self._broken = False

    def __iter__(self) -> Iterator[bytes | Act]:
        pieces: Timed = []
        for piece in self._body:
            if isinstance(piece, Act):
                self._broken = True
            else:
                pieces.append((time.monotonic() - self._began, piece))
            yield piece
        if not self._broken:
            self._store(pieces)

    def close(self) -> None:
        self._broken = True  # a body that is closed may end as if it were whole
        if close := getattr(self._body, "close", None):
            close()


class _Shelf:
    """A folder that recordings are added to; threads and processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counts = Counter[str]()
        self._lock = threading.Lock()
        self._warned = False

    def put(self, call: Call, reply: Reply, pieces: Timed) -> None:
        """Store an exchange that is over, unless the client has hung up: its answer may have been cut short."""
        if call.received.hangup.wait(0):
            return
        try:
            name, content = cassette.written(call, reply, pieces)
            self._write(name, content)
        except (OSError, RecursionError) as cause:
            with self._lock:
                first, self._warned = not self._warned, True
            if first:
                why = cause.strerror if isinstance(cause, OSError) else "it is nested too deeply"
                _log.warning(
                    "An exchange was not recorded in %s: %s. Later ones may be missing too", self._folder, why
                )

    def _write(self, name: str, content: bytes) -> None:
        descriptor, new = tempfile.mkstemp(dir=self._folder, prefix=f".{name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            place = self._claim(name)
            try:
                Path(new).replace(place)
            except OSError:
                place.unlink()
                raise
        except BaseException:
            Path(new).unlink(missing_ok=True)
            raise

    def _claim(self, name: str) -> Path:
        """Take the next number, by an empty file, which no replay counts."""
        with self._lock:
            while True:
                self._counts[name] += 1
                place = self._folder / f"{name}-{self._counts[name]}.json"
                try:
                    place.touch(0o600, exist_ok=False)
                except FileExistsError:
                    continue
                return place


# ---- replay ---------------------------------------------------------------------------------------------------


def replayed(folder: Path, *, realtime: bool = False) -> Perform:
    """Answer from the recordings in a folder, byte for byte, and ask nobody.

    Recordings of the same request are played one after the other; the last one stays. A request without a recording
    is refused with `ResourceNotFoundException`, which tells in what the nearest ones differ.

    Args:
        folder: what `recorded` filled; what is added later is not seen.
        realtime: whether answers take as long as they did, piece by piece; else they come at once.

    Raises:
        RecordingError: there is no recording, or a `.json` file that is none or damaged.
    """
    recordings = _read(folder)
    played, lock = Counter[str](), threading.Lock()

    def replaying(call: Call) -> Reply:
        began = time.monotonic()
        try:
            meant = cassette.meaning(call)
            key = cassette.key(meant)
        except RecursionError:
            raise error("ValidationException", "The request is nested too deeply") from None
        found = recordings.get(key)
        if not found:
            raise error("ResourceNotFoundException", _miss(meant, recordings))
        with lock:
            recording = found[min(played[key], len(found) - 1)][1]
            played[key] += 1
        call.received.notes.update(recording.notes)
        return _paced(recording, call, began) if realtime else recording.reply

    return replaying


def _paced(recording: Recording, call: Call, began: float) -> Reply:
    wait, reply = call.received.hangup.wait, recording.reply

    def pieces() -> Generator[bytes]:
        for seconds, piece in recording.pieces:
            if wait(max(0.0, began + seconds - time.monotonic())):
                return
            yield piece

    if isinstance(reply.body, bytes):
        return reply._replace(body=next(pieces(), reply.body))
    return reply._replace(body=pieces())


def _read(folder: Path) -> dict[str, list[tuple[str, Recording]]]:
    """Read a folder: the key of a request -> the names and contents of its recordings, in their order."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json" and path.name[0] != ".")
        contents = [(path, path.read_bytes()) for path in sorted(paths, key=_number)]
    except OSError as cause:
        text = f"The recordings in {folder} cannot be read: {cause.filename}: {cause.strerror}"
        raise RecordingError(text, "Name the folder that --record filled") from None
    found: dict[str, list[tuple[str, Recording]]] = defaultdict(list)
    for path, content in contents:
        if content:  # else its exchange was never stored
            recording = cassette.read(path, content)
            found[recording.key].append((path.name, recording))
    if not found:
        raise RecordingError(f"There is no recording in {folder}", "Fill the folder first, with --record")
    return dict(found)


def _number(path: Path) -> int:
    named = _NAME.fullmatch(path.name)
    return int(named[1]) if named else 0


# ---- misses ---------------------------------------------------------------------------------------------------


def _miss(meant: dict[str, Any], recordings: dict[str, list[tuple[str, Recording]]]) -> str:
    """Say that there is no recording of a request, and in what the nearest ones differ; no value is quoted."""
    request, operation = cassette.shown(meant["request"]), meant["operation"]
    model = request.get("modelId", "")
    text = f"No recording matches this {operation} request" + (f" for {model}" if model else "")
    alike = [several[0] for several in recordings.values() if several[0][1].operation == operation]
    if not alike:
        return f"{text}; the operation was not recorded"
    same = [(name, each.request) for name, each in alike if each.request.get("modelId", "") == model]
    if not same:
        models = sorted({str(each.request.get("modelId")) for _, each in alike})
        return f"{text}; it was recorded for {_listed(models)}"
    nearest = sorted((list(_differences(other, request)), name) for name, other in same)
    nearest.sort(key=lambda each: len(each[0]))
    told = [f"{name} differs at {_listed(paths)}" for paths, name in nearest[:_NAMED] if paths]
    return f"{text}; {'; '.join(told) or f'{nearest[0][1]} differs in what is not shown of it'}"


def _listed(texts: list[str]) -> str:
    more = f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return ", ".join(texts[:_NAMED]) + more


def _differences(one: Any, other: Any, path: tuple[str | int, ...] = ()) -> Iterator[str]:
    """Find the paths at which two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            if name in one and name in other:
                yield from _differences(one[name], other[name], (*path, name))
            else:
                yield json_path((*path, name))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (first, second) in enumerate(zip(one, other, strict=True)):
            yield from _differences(first, second, (*path, index))
    elif canonical(one) != canonical(other):
        yield json_path(path)
