"""llama.cpp in this very process: models are loaded, asked from many threads, stopped, and left in good order.

Requests and chunks are llama.cpp's own dicts. This is the only module that knows the library and its traps; it knows
nothing of Converse but the errors.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib.util
import os
import platform
import secrets
import shutil
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

from bx import gguf
from bx.converse import error
from bx.engines.budget import Budget
from bx.engines.calls import Call, Task, closed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from botocore.exceptions import ClientError

    Chunk = dict[str, Any]
    Method = Callable[[dict[str, Any], Callable[[Chunk], bool]], Any]

_SLOTS = 4  # requests that are answered at once; more wait in llama.cpp's queue
_CONTEXT = 8192  # tokens of context, shared by the slots; llama.cpp lowers it to what the model was trained for
_BATCH = 64  # tokens of the prompt between two moments at which a request can be stopped
_THREADS = 8  # at most: more only get in each other's way with the small models that this engine is for
_TEMPLATE = 512  # tokens that a chat template may add to the texts of a conversation
_PATIENCE = 10  # seconds that a computation has to stop; it takes a fraction of one
_TICK = 0.1  # seconds between two looks at whether a waiting request was cancelled
# Where xllamacpp has a wheel; the markers in pyproject.toml say the same.
_BUILDS = [
    ("linux", "x86_64", "glibc"),
    ("linux", "aarch64", "glibc"),
    ("darwin", "arm64"),
    ("win32", "AMD64"),
]
_ALWAYS = {
    "cache_prompt": False,  # what was asked before must not change an answer at temperature 0
    "timings_per_token": True,  # the tokens so far, also where the answer is stopped
    "return_progress": True,  # signs of life while the prompt is read: moments to stop at
    "stream": True,
}


class Model:
    """A model file that is loaded. Threads may share it.

    Raises:
        ClientError: the file is damaged, or llama.cpp is not installed or cannot be used in this process.
    """

    def __init__(self, path: Path) -> None:
        self.controls: list[str] = []
        self._server: Any = None
        self._lock = threading.Lock()
        self._budget = Budget(_CONTEXT)
        self._tasks: set[Task] = set()
        self._open = True
        self._answered = False
        _PROCESS.enter(self)
        failures: list[Exception] = []
        # Not in this thread: a Ctrl-C that came while it loads would drop the server before its loop has begun.
        loading = Task(lambda _: self._load(path, failures), self._tasks)
        try:
            loading.start()
            loading.chunks.get()
        except BaseException:
            self._open = False
            _waited(lambda: loading.ended, 1)  # it removes its folder and frees what it has loaded
            raise
        if failures:
            raise failures[0]

    def chat(self, body: dict[str, Any]) -> Call:
        """Start answering a chat completion."""
        return self._start(lambda: self._server.handle_chat_completions, body)

    def complete(self, body: dict[str, Any]) -> Call:
        """Start completing a plain prompt, without the chat template."""
        return self._start(lambda: self._server.handle_completions, body)

    def count(self, messages: list[dict[str, Any]]) -> int:
        """Count the tokens of a chat completion's prompt, with its template.

        Raises:
            ClientError: llama.cpp refused the request.
        """
        # There is no way to the tokenizer but to begin an answer: one batch of the prompt is read.
        body = {"messages": messages, "max_tokens": 1}
        return self._start(lambda: self._server.handle_chat_completions, body, counting=True).size()

    def close(self) -> None:
        """Stop all answers and free the memory."""
        with self._lock:
            self._open = False
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            if not _waited(lambda: all(task.ended for task in tasks), _PATIENCE):
                # One is stuck, and freeing the memory would be, too.
                self.leak()
                _leave_without_cleanup()
            self._free()

    def leak(self) -> None:
        """Never free the memory."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._server))

    def _load(self, path: Path, failures: list[Exception]) -> None:
        with self._lock:
            try:
                self.controls = gguf.controls(path)
                self._server = _load(path)
            except (OSError, RuntimeError, ValueError) as cause:
                failures.append(error("ValidationException", f"The model {path} cannot be loaded: {_why(cause)}"))
            except Exception as cause:  # noqa: BLE001 # it is raised again in the thread that asked
                failures.append(cause.with_traceback(None))
            if failures or not self._open:
                self._free()

    def _free(self) -> None:
        if self._server is not None and not self._answered:
            # llama.cpp hangs when it is stopped before its loop has begun: a request waits for that.
            self._server.handle_completions({"prompt": "x", "max_tokens": 1})
        self._server = None
        _PROCESS.models.discard(self)

    def _start(self, method: Callable[[], Method], body: dict[str, Any], *, counting: bool = False) -> Call:
        if not self._open:
            raise closed()
        body = body | _ALWAYS
        compute = functools.partial(self._compute, counting=counting)
        task = Task(lambda task: compute(method(), body, task) if self._open else None, self._tasks)
        try:
            task.start()
            return Call(task)
        except RuntimeError as cause:  # no more threads, or the interpreter is leaving
            raise error("ServiceUnavailableException", f"The embedded engine cannot answer: {cause}") from None
        except BaseException:
            task.cancel()
            raise

    def _compute(self, method: Method, body: dict[str, Any], task: Task, *, counting: bool) -> None:
        longest = body["max_tokens"]
        most = 2 * _BATCH if counting else _most_tokens(body) + longest
        with self._budget.reserved(most, lambda: task.cancelled) as reservation:
            if task.cancelled:
                return

            def put(chunk: Chunk) -> bool:
                self._answered = self._answered or "error" not in chunk
                if (progress := chunk.get("prompt_progress")) and not counting:
                    reservation.change(progress["total"] + longest)
                return task.put(chunk) or counting

            if "grammar" in body:
                self._constrain(method, body, put, task)
            else:
                method(body, put)

    def _constrain(self, method: Method, body: dict[str, Any], put: Callable[[Chunk], bool], task: Task) -> None:
        """Answer with a grammar.

        llama.cpp has one tokenizer for grammars in the whole process, and finds it by the address of a model's
        vocabulary. Two models that start at the same moment, or one that was loaded where another was freed, get the
        wrong one, which ends the process at best. So they start one after the other, and the model that has the
        tokenizer is not freed before another one has it.
        """
        while not _PROCESS.gate.acquire(timeout=_TICK):
            if task.cancelled:
                return
        waiting = True
        if self._server not in _PROCESS.kept:
            _PROCESS.kept.append(self._server)

        def started(chunk: Chunk) -> bool:
            nonlocal waiting
            if waiting:
                waiting = False
                if "error" not in chunk:
                    _PROCESS.kept[:] = [self._server]
                _PROCESS.gate.release()
            return put(chunk)

        try:
            method(body, started)
        finally:
            if waiting:
                _PROCESS.gate.release()


class _Process:
    """What llama.cpp has once in a process, whoever uses it."""

    def __init__(self) -> None:
        self.models: set[Model] = set()
        self.gate = threading.Lock()  # held while a request with a grammar starts: see `Model._constrain`
        self.kept: list[Any] = []  # servers whose vocabulary may be behind the tokenizer for grammars
        self.busy: set[object] = set()  # the threads that prepare a request
        self._home = 0
        self._watching = self._leaving = False

    def watch(self) -> None:
        """Be told when the process forks or leaves."""
        if not self._watching:
            self._watching = True
            # Leaving the interpreter while llama.cpp computes crashes it: everything is stopped first.
            atexit.register(self._leave)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=self._abandon)

    def enter(self, model: Model) -> None:
        """Take in a model before it is loaded."""
        self.check()
        self._home = os.getpid()
        self.models.add(model)
        try:
            self.check()
        except BaseException:
            self.models.discard(model)
            raise

    def check(self) -> None:
        """Refuse to begin what would hang, or what nobody would stop."""
        if self._home not in (0, os.getpid()):
            message = (
                "The embedded engine cannot be used in a forked process. Start it with spawn, or ask there first"
            )
            raise error("InternalServerException", message)
        if self._leaving or not threading.main_thread().is_alive():
            raise closed()

    def _leave(self) -> None:
        self._leaving = True
        while self.models:
            with contextlib.suppress(KeyboardInterrupt):  # it takes a moment; leaving in its midst crashes
                next(iter(self.models)).close()
        self.kept.clear()
        # Other threads must not be in the midst of a library's code when they are ended: that aborts the process.
        _waited(lambda: not self.busy, 1)

    def _abandon(self) -> None:
        """Leave the library alone in a forked child: the threads that its clean-up would wait for are not there."""
        atexit.unregister(self._leave)
        for model in self.models:
            model.leak()
        for server in self.kept:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(server))
        _leave_without_cleanup()


_PROCESS = _Process()
watch = _PROCESS.watch


@contextlib.contextmanager
def preparing() -> Iterator[None]:
    """Prepare a request, where that neither hangs nor crashes.

    Raises:
        ClientError: this is the forked child of a process that has loaded llama.cpp, or the interpreter is leaving.
    """
    token = object()
    try:
        _PROCESS.busy.add(token)
        _PROCESS.check()
        yield
    finally:
        _PROCESS.busy.discard(token)


def _waited(done: Callable[[], bool], seconds: float) -> bool:
    """Wait until something is done; returns whether it was."""
    until = time.monotonic() + seconds
    while not done() and time.monotonic() < until:
        time.sleep(_TICK / 20)
    return done()


def _leave_without_cleanup() -> None:
    """Let the process end, when it does, as soon as Python has: the library's own clean-up would hang."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # not on macOS, where such a process has to leave by `os._exit`
        libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)  # noqa: SLF001 # this is its name in C


def _load(path: Path) -> Any:
    """Load a model file into llama.cpp, which always listens somewhere: here, where nobody can reach it."""
    # Spinning threads make two processes on one machine crawl; read by libgomp when it is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # else a failed assertion starts a debugger in the terminal
    os.environ.setdefault("LLGUIDANCE_LOG_LEVEL", "0")  # else it warns on stderr in the midst of an answer
    try:
        import xllamacpp
    except ImportError as cause:
        raise _not_loaded(cause) from cause
    folder = tempfile.mkdtemp(prefix="bx-")  # 0700
    if hasattr(os, "SCHED_BATCH"):  # the threads that are started here compute: those that wait for them go first
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        return xllamacpp.Server(_parameters(xllamacpp.CommonParams(), path, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # without its name the socket is out of reach for everyone


def _parameters(parameters: Any, path: Path, folder: str) -> Any:
    parameters.model.path = str(path)
    parameters.model_alias = {"local"}
    parameters.n_parallel, parameters.kv_unified, parameters.n_ctx = _SLOTS, True, _CONTEXT
    parameters.n_batch = parameters.n_ubatch = _BATCH
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = min(_processors(), _THREADS)
    parameters.verbosity = -1
    parameters.warmup = parameters.fit_params = False  # they double the time to load and change nothing else
    parameters.cache_ram_mib = 0
    parameters.n_threads_http = 1
    parameters.ui = parameters.endpoint_slots = False
    # There is no way not to listen. A socket in a private folder where the system has such sockets; and a key that
    # nobody knows, everywhere.
    parameters.api_keys = [secrets.token_hex(32)]
    if os.name == "posix":
        parameters.hostnames = [f"{folder}/x.sock"]
    return parameters


def _processors() -> int:
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _most_tokens(body: dict[str, Any]) -> int:
    """Bound a prompt's tokens before they are counted: none is shorter than a byte."""
    texts = [message["content"] for message in body.get("messages", ())] or [body.get("prompt", "")]
    return _TEMPLATE + sum(len(text.encode()) for text in texts)


def check_installed() -> None:
    """Refuse to go on without llama.cpp, before a model is looked for or fetched.

    Raises:
        ClientError: it is not installed, or there is no build of it for this platform.
    """
    if importlib.util.find_spec("xllamacpp"):
        return
    kind = sys.platform, platform.machine(), *(platform.libc_ver()[:1] if sys.platform == "linux" else ())
    if kind not in _BUILDS:
        where = " ".join(part for part in kind if part)
        raise error("ResourceNotFoundException", f"The embedded engine has no build for this platform ({where})")
    fix = "pip install 'bedrock-bx[local]'"
    raise error("ResourceNotFoundException", f"The embedded engine is not installed: {fix}")


def _not_loaded(cause: ImportError) -> ClientError:
    if "libgomp" in str(cause):
        return error("ModelErrorException", "The embedded engine needs libgomp: apt-get install libgomp1")
    return error("ModelErrorException", f"The embedded engine cannot be loaded: {cause}")


def _why(cause: Exception) -> str:
    return str(cause) if isinstance(cause, (OSError, ValueError)) else "it is damaged, or no model for this engine"
