"""Settings: the only reader of the environment and of configuration files.

A flag beats a `BX_*` variable, which beats the project's `bx.toml`, which beats the user's `config.toml`. This module
knows the names and the kinds of the settings, but not what any of them does.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# Every setting and its kind. The flag of `max_tokens` is --max-tokens, its variable BX_MAX_TOKENS.
KINDS: dict[str, type] = {
    "model": str,
    "geo": str,
    "region": str,
    "profile": str,
    "endpoint_url": str,
    "system": str,
    "json": str,
    "guarantee": str,
    "max_turns": int,
    "max_tokens": int,
    "temperature": float,
    "top_p": float,
    "stop": list,
    "option": dict,
    "stream": bool,
    "usage": bool,
    "dry_run": bool,
    "raw": bool,
    "raw_output": bool,
    "quiet": bool,
    "verbose": bool,
    "offline": bool,
    "auto_profile": bool,
    "yes": bool,
    "history": str,
    "ledger": str,
    "tag": str,
    "max_cost": float,
    "budget": dict,
    "prices": dict,
}
# A project's file may come from anyone: it must not decide where prompts and credentials go, nor agree to anything,
# nor have a file of its own loaded by llama.cpp, which is not made for hostile ones, nor hide what was spent.
_USER_ONLY = (
    *("endpoint_url", "profile", "offline", "auto_profile", "yes", "raw_output", "quiet", "dry_run", "raw"),
    *("ledger", "prices"),
)
# What a project may lower and not raise.
_LIMITS = ("max_cost", "budget")
# A project may say where prompts are processed, but not without a word.
_ANNOUNCED = ("geo", "region")
# What a setting may be, where that is less than its kind allows.
_CHOICES = {"guarantee": ("enforced", "validated", "any"), "history": ("off", "terminal", "all")}
_LEAST = {"max_turns": 1, "max_cost": 0}
_PERIODS = ("day", "month")  # of the table `budget`
_FOLDERS = {"data": (".local", "share"), "cache": (".cache",)}
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_IN_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list of texts",
    dict: "a table",
}


class ConfigError(ValueError):
    """A setting is unusable; the message names where it stands, `fix` what to do."""

    exit_code = 2

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class Settings(NamedTuple):
    """What the environment and the files say.

    `values` holds the settings that are set, by the names in `KINDS`; `models` the entries that files add to
    `models.toml`; `notes` what was passed over, and why.
    """

    values: dict[str, Any]
    models: dict[str, dict[str, Any]]
    notes: list[str]


def load(environ: Mapping[str, str] | None = None, directory: Path | None = None) -> Settings:
    """Read the settings that hold in a directory, the current one by default.

    Raises:
        ConfigError: a file or a variable holds something that cannot be used.
    """
    environ = os.environ if environ is None else environ
    settings = Settings({}, {}, [])
    for _, add in sources(environ, directory):
        add(settings)
    variables = {f"BX_{name.upper()}" for name in KINDS}
    unknown = sorted(name for name in environ if name.startswith("BX_") and name not in variables)
    settings.notes.extend(f"{variable} is no setting of bx" for variable in unknown)
    return settings


def sources(
    environ: Mapping[str, str] | None = None, directory: Path | None = None
) -> Iterator[tuple[str, Callable[[Settings], object]]]:
    """Give each place where settings stand, a file or a variable, and what adds them; the last one holds.

    Raises:
        ConfigError: as `load` does, also when a place's settings are added.
    """
    environ = os.environ if environ is None else environ
    file = user_file(environ)
    yield str(file), functools.partial(_read, file)
    if project := _project_file(directory, environ):
        yield str(project), functools.partial(_read, project, project=True)
    # boto3 reads AWS_DEFAULT_REGION alone; every other AWS tool reads AWS_REGION too.
    if region := environ.get("AWS_REGION"):
        yield "AWS_REGION", functools.partial(_set, "region", region)
    for name in KINDS:
        if text := environ.get(variable := f"BX_{name.upper()}"):
            yield variable, functools.partial(_set, name, parsed(text, name, variable))


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Join two tables, key by key; where both have a value, the one above holds."""
    joined = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            joined[key] = merged(below[key], above[key])
    return joined


def parsed(text: str, name: str, where: str) -> Any:
    """Read the text of a flag or a variable as a setting.

    Raises:
        ConfigError: it is none; the message names `where`.
    """
    kind = KINDS[name]
    if kind is bool and text.lower() in (*_TRUE, *_FALSE):
        return text.lower() in _TRUE
    value: Any = text
    with contextlib.suppress(ValueError):
        if kind in (int, float) and math.isfinite(number := kind(text)):
            value = number
        elif kind in (list, dict):
            value = json.loads(text)
    if kind is list and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        value = [text]
    return _checked(value, name, where)


def ledger(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Path | None:
    """Return the file of the ledger, which need not be there; None where none is to be kept."""
    environ = os.environ if environ is None else environ
    if chosen := options.get("ledger"):
        return None if chosen == "off" else Path(chosen).expanduser()
    return folder("data", environ) / "ledger.db"


def folder(kind: str, environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of bx's `data`, or of its `cache`, which may be lost; neither need be there."""
    environ = os.environ if environ is None else environ
    platform = sys.platform  # mypy takes the comparison of the original for decided
    if platform == "linux":  # where platformdirs, which takes a while to load, would say the same
        usual = Path(environ.get("HOME") or Path.home(), *_FOLDERS[kind])
        return Path(environ.get(f"XDG_{kind.upper()}_HOME") or usual, "bx")
    import platformdirs

    of = {"data": platformdirs.user_data_path, "cache": platformdirs.user_cache_path}
    return Path(of[kind]("bx", appauthor=False))


def user_file(environ: Mapping[str, str] | None = None) -> Path:
    """Return where the user's own settings are read from; there need be no such file."""
    environ = os.environ if environ is None else environ
    if folder := environ.get("XDG_CONFIG_HOME"):
        return Path(folder, "bx", "config.toml")
    if os.name == "posix":
        return Path(environ.get("HOME") or Path.home(), ".config", "bx", "config.toml")
    import platformdirs

    return Path(platformdirs.user_config_path("bx", appauthor=False), "config.toml")


def _project_file(directory: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the nearest `bx.toml` from a directory upwards, not above the home directory."""
    home = Path(environ.get("HOME") or Path.home()).resolve()
    try:
        directory = directory or Path.cwd()
    except FileNotFoundError:  # somebody has deleted it
        return None
    for folder in (directory, *directory.parents):
        file = folder / "bx.toml"
        if os.path.isfile(file):  # noqa: PTH113 # Path's own fails in a folder that may not be searched
            return file
        if folder == home:
            return None
    return None


def _read(file: Path, settings: Settings, *, project: bool = False) -> None:
    try:
        content = file.read_bytes()
        owner = file.stat().st_uid
    except FileNotFoundError:
        return
    except OSError as cause:
        raise ConfigError(f"{file} cannot be read: {cause.strerror}", "Make the file readable, or move it") from None
    if project and os.name == "posix" and owner not in (0, os.getuid()):
        settings.notes.append(f"{file} was passed over: it belongs to another user")
        return
    for name, value in _tables(file, content).items():
        if name == "models":
            _add_models(file, value, settings, project=project)
        elif name not in KINDS:
            raise ConfigError(f"{file}: unknown setting {name!r}", f"Use one of: models, {', '.join(KINDS)}")
        elif project and name in _USER_ONLY:
            settings.notes.append(f"{file}: {name} was passed over: only your own config.toml may set it")
        elif project and _leaves(file, name, value):
            settings.notes.append(
                f"{file}: {name} = {value!r} was passed over: only your own config.toml may set that"
            )
        else:
            checked = _beside(file, name, _checked(value, name, f"{file}: {name}"))
            _set(name, _lowered(file, name, checked, settings) if project else checked, settings)
            if project and name in _ANNOUNCED:
                settings.notes.append(f"{file} sets {name} to {value}")


def _set(name: str, value: Any, settings: Settings) -> None:
    """Put a setting above what there is; of `option` each key is a setting of its own."""
    below = settings.values.get(name, {})
    settings.values[name] = merged(below, value) if KINDS[name] is dict else value


def _lowered(file: Path, name: str, value: Any, settings: Settings) -> Any:
    """Leave of a project's limits what is not above the user's own; any other setting stays as it is."""
    own = settings.values.get(name) if name in _LIMITS else None
    lower = value
    if isinstance(own, dict):
        lower = {period: min(limit, own.get(period, limit)) for period, limit in value.items()}
    elif own is not None:
        lower = min(value, own)
    if lower != value:
        settings.notes.append(f"{file}: {name} = {value!r} was passed over where it is above your own limit")
    return lower


def _beside(file: Path, name: str, value: Any) -> Any:
    """Find the schema, or the ledger, that a file names beside that file."""
    if name == "ledger":
        return value if value == "off" else str(file.parent / Path(value).expanduser())
    return str(file.parent / Path(value).expanduser()) if name == "json" and not _is_inline(value) else value


def _is_inline(schema: Any) -> bool:
    """Whether a setting is a schema itself: a JSON object, or fields in words.

    Anything else is a path: no file names Python code (`module:Name`) to be run, nor another folder's schema.
    """
    if not isinstance(schema, str) or schema.strip()[:1] in ("{", "-", ""):
        return True
    words = bool({*" ,|\n[{"} & {*schema.strip()})
    return words and not {"/", "\\"} & {*schema} and not schema.strip().lower().endswith(".json")


def _tables(file: Path, content: bytes) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise ConfigError(f"{file} is not valid TOML: {cause}", "Correct the file at that place") from None


def _leaves(file: Path, name: str, value: Any) -> bool:
    """Whether a project's setting loads a file or a schema from elsewhere, or lets answers pass or be kept."""
    if name == "model":
        return _is_file(value)
    if name == "guarantee":
        return bool(value == "any")
    if name == "history":
        return bool(value != "off")
    if name != "json" or _is_inline(value):
        return False
    return not Path(_beside(file, name, value)).resolve().is_relative_to(file.parent.resolve())


def _is_file(model: Any) -> bool:
    scheme, _, name = str(model).partition(":")
    return scheme == "local" and (".gguf" in name.lower() or "/" in name or "\\" in name)


def _add_models(file: Path, entries: Any, settings: Settings, *, project: bool) -> None:
    if not isinstance(entries, dict):
        raise ConfigError(f"{file}: models must be tables", 'Write [models.NAME] and below it id = "..."')
    for name, entry in entries.items():
        if not isinstance(entry, dict):
            raise ConfigError(f"{file}: models.{name} must be a table", f'Write [models.{name}] and id = "..."')
        if "file" in entry:  # a key of our own: see below
            raise ConfigError(
                f"{file}: models.{name}: unknown key 'file'", 'A model file is named by id = "local:PATH"'
            )
        if project and _is_file(entry.get("id")):
            settings.notes.append(f"{file}: models.{name} was passed over: only your own config.toml may name a file")
        else:
            below = {} if "id" in entry else settings.models.get(name, {})
            settings.models[name] = {**below, **entry, **({"file": str(file)} if project else {})}


def _checked(value: Any, name: str, where: str) -> Any:
    kind, choices = KINDS[name], _CHOICES.get(name)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is float:
        fits = fits and math.isfinite(value)
    if kind is list:
        fits = fits and all(isinstance(item, str) for item in value)
    if not fits:
        raise ConfigError(f"{where} is {value!r}", f"It must be {_IN_WORDS[kind]}")
    if name == "budget":
        _check_budget(value, where)
    if choices and value not in choices:
        raise ConfigError(f"{where} is {value!r}", f"It must be one of {', '.join(choices)}")
    if name in _LEAST and value < _LEAST[name]:
        raise ConfigError(f"{where} is {value!r}", f"It must be at least {_LEAST[name]}")
    return value


def _check_budget(budget: dict[str, Any], where: str) -> None:
    for period, limit in budget.items():
        is_number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
        if period not in _PERIODS or not is_number or not (0 <= limit < math.inf):
            raise ConfigError(f"{where} is {budget!r}", "Write dollars a day or a month: { day = 5, month = 50.0 }")
