"""Facts that are kept between processes for a while, in private files of the user's cache.

Losing one costs a little time and nothing else: a file that cannot be read or written is passed over. This module
knows nothing of what the facts mean.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

_MOST = 500  # facts in a file


class Memory:
    """Facts by key, each forgotten some time after it was kept.

    Args:
        name: the name of the file, without its suffix.
        seconds: how long a fact is kept.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self._name = name
        self._seconds = seconds

    def get(self, key: str) -> Any:
        """Return the fact that was kept under a key, any JSON value, or None."""
        return self._read().get(key, (0, None))[1]

    def put(self, key: str, fact: Any) -> None:
        """Keep a JSON value under a key; None forgets it."""
        facts = self._read()
        facts.pop(key, None)
        if fact is not None:
            facts[key] = (time.time() + self._seconds, fact)
        newest = dict(sorted(facts.items(), key=lambda item: item[1][0])[-_MOST:])
        with contextlib.suppress(OSError):
            _write(self._path(), json.dumps(newest))

    def _path(self) -> Path:
        import platformdirs

        return Path(platformdirs.user_cache_path("bx", appauthor=False), f"{self._name}.json")

    def _read(self) -> dict[str, tuple[float, Any]]:
        try:
            kept = json.loads(self._path().read_bytes())
            facts = {str(key): (float(until), fact) for key, (until, fact) in kept.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}
        now = time.time()
        return {key: (until, fact) for key, (until, fact) in facts.items() if now < until <= now + self._seconds}


def _write(path: Path, text: str) -> None:
    """Replace a file in one step; it is readable by the user only."""
    path.parent.mkdir(0o700, parents=True, exist_ok=True)
    descriptor, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(new).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(new).unlink()
        raise
