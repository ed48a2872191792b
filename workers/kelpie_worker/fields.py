"""How a settings class is written and read: fields with their variables, parsers, and one reader."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from kelpie.errors import StartupError

T = TypeVar("T")

_MAX_SECRET_BYTES = 65_536
MAX_NAME_LENGTH = 128
"""Characters in the name of a node or a container group, at most."""


def setting(
    default: T,
    *env: str,
    unit: str = "",
    help: str,  # noqa: A002  (the name that every option parser gives to this text)
    parse: Callable[[str], T],
    secret: bool = False,
    shown_default: str | None = None,
    option: str = "",
) -> T:
    """One field of a settings class; of several environment variables the first one set wins.

    ``option`` of the command line may override it.
    """
    metadata = {
        "env": env,
        "unit": unit,
        "help": help,
        "parse": parse,
        "secret": secret,
        "option": option,
        "shown_default": _shown(default) if shown_default is None else shown_default,
    }
    # dataclasses.field is typed as its default's type, exactly as this function is
    return field(default=default, repr=not secret, metadata=metadata)


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, tuple):
        return os.pathsep.join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


# ---- parsers: each takes the text of a variable and raises ValueError with what would be right


def text(value: str) -> str:
    """Any text."""
    return value


def name(value: str) -> str:
    """The name of a node or a queue."""
    if len(value) > MAX_NAME_LENGTH or not value.isprintable():
        raise ValueError(f"must be at most {MAX_NAME_LENGTH} printable characters")
    return value


def boolean(value: str) -> bool:
    """Yes or no."""
    lowered = value.lower()
    if lowered in {"true", "1", "yes", "on"}:
        return True
    if lowered in {"false", "0", "no", "off"}:
        return False
    raise ValueError("must be true or false")


def integer(low: int, high: int) -> Callable[[str], int]:
    """A whole number between both."""

    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return number

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    """A number between both."""

    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not low <= number <= high:  # also refuses nan
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return number

    return parse


def one_of(*choices: str) -> Callable[[str], str]:
    """One of these words, in any case."""

    def parse(value: str) -> str:
        if value.lower() not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return value.lower()

    return parse


def log_level(value: str) -> str:
    """A level of logging."""
    # the names of Kelpie 0.5 to 0.7 mean the nearest of ours
    older = {"trace": "debug", "warn": "warning", "fatal": "critical"}
    return one_of("debug", "info", "warning", "error", "critical")(older.get(value.lower(), value))


def url(*schemes: str) -> Callable[[str], str]:
    """A URL with one of these schemes."""

    def parse(value: str) -> str:
        parts = urlsplit(value.partition(",")[0])  # newer Pythons take no bracketed host among several
        if parts.scheme not in schemes or not (parts.netloc or parts.scheme == "unix"):
            raise ValueError(f"must be a URL that starts with {', '.join(s + '://' for s in schemes)}")
        return value.rstrip("/")

    return parse


def paths(value: str) -> tuple[Path, ...]:
    """Absolute paths, as PATH separates them."""
    found = tuple(Path(part) for part in value.split(os.pathsep) if part)
    if not all(path.is_absolute() for path in found):
        raise ValueError(f"must be absolute paths separated by {os.pathsep!r}")
    return found


def read(cls: type[T], environ: Mapping[str, str], overrides: Mapping[str, str | None] | None = None) -> T:
    """The settings of an environment; ``overrides`` are texts by field name. StartupError: all bad values."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for each in fields(cls):  # type: ignore[arg-type]  # a class  # every caller gives a dataclass
        if not each.metadata and each.default is not MISSING:  # what no environment says
            continue
        if not each.metadata:  # settings of a part, a dataclass of their own
            try:
                values[each.name] = read(each.default_factory, environ)  # type: ignore[arg-type]  # a class
            except StartupError as error:
                problems.append(str(error))
            continue
        given = (overrides or {}).get(each.name)
        try:
            source, told = (each.metadata["option"], given) if given else _from_env(each, environ)
        except StartupError as error:
            problems.append(str(error))
            continue
        if not told:  # unset, or set to nothing, as templates of containers leave what is not filled in
            continue
        try:
            values[each.name] = each.metadata["parse"](told)
        except ValueError as error:
            shown = "its value" if each.metadata["secret"] else repr(told[:100])
            problems.append(f"{source}: {shown} is not possible: it {error}")
    if problems:
        raise StartupError("; ".join(problems))
    return cls(**values)


def _from_env(each: Field[Any], environ: Mapping[str, str]) -> tuple[str, str]:
    for variable in each.metadata["env"]:
        if told := environ.get(variable, "").strip():
            return variable, told
        if each.metadata["secret"] and (path := environ.get(f"{variable}_FILE", "").strip()):
            return f"{variable}_FILE", _from_file(f"{variable}_FILE", path)
    return each.metadata["env"][0], ""


def _from_file(name: str, path: str) -> str:
    """A secret that stands in a file, which no list of processes shows. Raises StartupError."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_SECRET_BYTES + 1)
        told = data.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise StartupError(f"{name}: {path} cannot be read: {why}") from None
    if not told or len(data) > _MAX_SECRET_BYTES:
        raise StartupError(f"{name}: {path} must hold one secret of at most {_MAX_SECRET_BYTES} bytes")
    return told
