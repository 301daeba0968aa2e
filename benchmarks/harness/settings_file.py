"""Flags of `run` in a TOML file: a key a flag, a list where it has several values."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.config import kind_of
from common.errors import UserError, did_you_mean
from common.files import read_text, write_text

if TYPE_CHECKING:
    from benchmarks.harness.flags import Flag

NOT_HERE = ("config", "save_config", "dry_run")  # flags about one command alone


def arguments_of(path: Path, known: Mapping[str, Flag]) -> list[str]:
    """The file's flags as command-line arguments; keys are names of `known` flags, with - or _.

    Raises `UserError` for a file that can't be read or isn't TOML, another key, and a value that isn't the flag's.
    """
    try:
        values = tomllib.loads(read_text(path))
    except OSError as error:
        raise UserError(f"Cannot read the settings file {path} ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or nested too deep
        raise UserError(f"The settings file {path} is not TOML ({error}).") from error
    arguments = []
    for key, value in values.items():
        flag = known.get(key.replace("-", "_"))
        if flag is None or flag.name in NOT_HERE:
            meant = did_you_mean(key, [name.replace("_", "-") for name in known])
            raise UserError(f"The settings file {path} has '{key}', which isn't a flag it can hold; see run --help-all.{meant}")
        words, fits = kind_of(flag.kind)
        listed = value if isinstance(value, list) else [value]
        if not flag.several and isinstance(value, list):
            raise UserError(f"'{key}' in the settings file {path} is a list; it must be {words}.")
        if not listed:
            raise UserError(f"'{key}' in the settings file {path} has no value; give at least one, or leave it out.")
        for one in listed:
            if not fits(one):
                shown = json.dumps(one, default=str)
                raise UserError(f"'{key}' in the settings file {path} is {shown}; it must be {words}.")
        if flag.kind is bool and not flag.several:
            arguments.append(flag.spelling if value else f"--no{flag.spelling[1:]}")
        else:
            arguments += [flag.spelling, *(json.dumps(one) if isinstance(one, bool) else str(one) for one in listed)]
    return arguments


def save(path: Path, values: Mapping[str, Any]) -> None:
    """Write flags' values for `arguments_of`. Raises `UserError` where the file can't be written."""
    lines = [f"# python -m benchmarks run --config {path.name}"]
    for name, value in values.items():
        if name not in NOT_HERE:
            listed = list(value) if isinstance(value, tuple) else [str(value) if isinstance(value, Path) else value]
            # JSON's text, numbers, booleans and lists are TOML's.
            plain = json.dumps(listed if len(listed) > 1 else listed[0], ensure_ascii=False)
            lines.append(f"{name.replace('_', '-')} = {plain}")
    write_text(path, "\n".join(lines) + "\n")
