"""The terminal: the only place that prints, asks, or knows what a TTY is.

The answer goes to stdout and nothing else does; notes, progress and questions go to stderr. This module knows no
model and no engine.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_PATIENCE = 2  # seconds until we say that we wait for standard input

# Everything that can move the cursor, rewrite the screen, set a title or reorder text: C0 but newline and tab,
# DEL, C1, and Unicode's bidirectional controls.
_CONTROLS = [
    *(code for code in range(0x20) if chr(code) not in "\n\t"),
    *range(0x7F, 0xA0),
    0x061C, 0x200E, 0x200F,
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
]  # fmt: skip
STYLES = {"plain": "", "bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_VISIBLE = {code: ascii(chr(code))[1:-1] for code in _CONTROLS}


def visible(text: str) -> str:
    r"""Show control characters as escapes (`\x1b`, `\u202e`), so that no text can drive a terminal."""
    return text.translate(_VISIBLE)


class InputError(ValueError):
    """Standard input cannot be used; `fix` says what to do."""

    exit_code = 2
    fix = "Send text, such as the output of iconv -t utf-8"


class Terminal:
    """The three standard streams and what may be written to them.

    `quiet` silences notes, `raw_output` lets a model's control characters through to a terminal. `typed` says that
    standard input is a terminal, `interactive` that a question can be asked.
    """

    def __init__(
        self,
        stdin: TextIO | None = None,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        # Python has no stream where the shell closed one: such an input is empty, and nobody reads such notes.
        self.stdin = stdin or sys.stdin or io.StringIO()
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr or io.StringIO()
        self.quiet = False
        self.raw_output = False
        self.answers_on_terminal = _is_terminal(self.stdout)
        self.notes_on_terminal = _is_terminal(self.stderr)
        self.typed = _is_terminal(self.stdin)
        self.interactive = self.typed and self.notes_on_terminal
        self._animated = self.notes_on_terminal and environ.get("TERM") != "dumb"
        self.colour = self._animated and not environ.get("NO_COLOR")
        self._half = ""
        self._styled = self.answers_on_terminal and environ.get("TERM") != "dumb" and not environ.get("NO_COLOR")

    @property
    def width(self) -> int:
        """The columns of the terminal that answers are read on; 0 where they go elsewhere."""
        import shutil

        return shutil.get_terminal_size().columns if self.answers_on_terminal else 0

    @property
    def piped(self) -> bool:
        """Whether standard input is a pipe, a file or a socket: something to be read, that ends."""
        try:
            mode = os.fstat(self.stdin.fileno()).st_mode
        except (AttributeError, OSError, ValueError):  # closed, or no real file
            return isinstance(self.stdin, io.StringIO)
        return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)

    def read_input(self) -> str:
        """Read standard input to its end; say so where nothing comes.

        Raises:
            InputError: it is not text.
        """
        if os.name == "posix" and not self.typed and not isinstance(self.stdin, io.StringIO):
            import select

            if not select.select([self.stdin], [], [], _PATIENCE)[0]:
                self.note("waiting for standard input (add < /dev/null to go on without it)")
        try:
            return self.stdin.read()
        except UnicodeDecodeError as cause:
            raise InputError(f"Standard input is not UTF-8 text: {cause.reason} at byte {cause.start}") from None

    def answer(self, text: str) -> None:
        """Write a piece of the answer to stdout at once, control characters made visible on a terminal."""
        text, self._half = self._half + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":  # half a character: its other half is in the next piece
            text, self._half = text[:-1], text[-1]
        if self.answers_on_terminal and not self.raw_output:
            text = visible(text)
        if not text.isascii():
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        self.stdout.write(text)
        self.stdout.flush()

    def line(self, text: str = "") -> None:
        """Write a line to stdout."""
        self.answer(text + "\n")

    def styled(self, *pieces: tuple[str, str]) -> None:
        """Write a line to stdout in pieces, each a text and its style, one of `STYLES`, which a terminal shows."""
        for text, style in pieces:
            start, end = (f"\x1b[{STYLES[style]}m", "\x1b[0m") if self._styled and STYLES[style] else ("", "")
            self.stdout.write(start)
            self.answer(text)
            self.stdout.write(end)
        self.line()

    def note(self, message: str, fix: str = "") -> None:
        """Tell people something, and what they can do about it, on stderr; silent with `quiet`."""
        if not self.quiet:
            self.complain(f"bx: {message}" + (f"\n    -> {fix}" if fix else ""))

    def complain(self, message: str) -> None:
        """Write a line to stderr even with `quiet`."""
        self._stderr(visible(message) + "\n")

    def aside(self, text: str) -> None:
        """Write a piece of reasoning to stderr at once, dimmed on a terminal."""
        text = visible(text) if self.notes_on_terminal else text
        self._stderr(f"\x1b[2m{text}\x1b[0m" if self.colour and text else text)

    def confirm(self, question: str, *, default: bool = True) -> bool:
        """Ask on stderr; an empty line is the default, the end of input a no. Only for an interactive terminal."""
        self._stderr(f"{visible(question)} [{'Y/n' if default else 'y/N'}] ")
        reply = ""
        try:
            reply = self.stdin.readline()
        finally:
            if not reply:  # Ctrl-C or Ctrl-D: the question's line is still open
                self._stderr("\n")
        return default if reply == "\n" else reply.lower() in ("y\n", "yes\n")

    @contextlib.contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a progress bar on stderr; yields a function that takes the bytes done so far.

        Where nothing can be drawn there is no bar.
        """
        if not self._animated or self.quiet:
            yield lambda _: None
            return
        try:
            yield lambda done: self._stderr(_bar(label, done, total))
        finally:
            self._stderr("\r\x1b[K")

    def _stderr(self, text: str) -> None:
        # A reader of our notes that has gone away must not cost the answer.
        with contextlib.suppress(OSError, ValueError):
            self.stderr.write(text)
            self.stderr.flush()


def use_utf8() -> None:
    """Make the standard streams UTF-8, whatever the locale says; writing never fails on a character."""
    # Without a buffer (PYTHONUNBUFFERED), Python takes a write that stopped half-way for a whole one.
    if isinstance(sys.stdout, io.TextIOWrapper) and isinstance(sys.stdout.buffer, io.RawIOBase):
        sys.stdout = io.TextIOWrapper(encoding=sys.stdout.encoding, buffer=io.BufferedWriter(sys.stdout.detach()))
    for stream, errors in ((sys.stdin, "strict"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=stream.encoding if stream.isatty() else "utf-8", errors=errors)


def _bar(label: str, done: int, total: int) -> str:
    share = min(done / total, 1) if total else 0
    filled = "█" * round(share * 24)
    of = f" of {total / 1e6:.0f}" if total else ""
    return f"\r{visible(label)} {filled:░<24} {done / 1e6:.0f}{of} MB\x1b[K"


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # no stream, or a closed one
        return False
