"""The sample of JSONSchemaBench, which is no part of the project: real schemas with instances.

It is taken from beside the project, or from where BX_JSONSCHEMABENCH says: the file, or its folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).parents[2] / "shared" / "jsonschemabench"
_GIVEN = Path(os.environ.get("BX_JSONSCHEMABENCH", _BESIDE))  # before any test gets an environment of its own
_FILE = _GIVEN / "sample.jsonl" if _GIVEN.is_dir() else _GIVEN
_MISSING = (
    "no sample of JSONSchemaBench: draw some files of its folder maskbench/data (guidance-ai/jsonschemabench on "
    "GitHub), write each as one line with its name, schema and tests, and set BX_JSONSCHEMABENCH to that file"
)

needed = pytest.mark.skipif(not _FILE.exists(), reason=_MISSING)


def cases():
    """Each case: a dict with `name`, `schema` and `tests`."""
    return [json.loads(line) for line in _FILE.read_text(encoding="utf-8").splitlines()]
