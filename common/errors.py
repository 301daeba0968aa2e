"""The one exception that stands for a user's mistake."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The message is one sentence: what is wrong and what to do. The command line prints it and exits with 2."""


class DiskError(UserError):
    """A file or folder can't be written: the disk is full, say. The next run into the same folder would fail, too."""


LONGEST = 1_000  # characters of a message


def printable(text: str) -> str:
    """The text on one line, with a ? for each character that a terminal would obey rather than show.

    The middle of a line longer than LONGEST is left out: a name in it can have any length.
    """
    line = "".join("?" if unicodedata.category(each).startswith("C") else each for each in " ".join(text.splitlines()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 + 3 :]}"


def unknown(kind: str, name: str, choices: Iterable[str], *, more: str = "") -> UserError:
    """The error of a name that is none of the choices: "There is no backend 'torch'; choose from …. Did you mean pytorch?".

    `more` ends the list: ", or give a file".
    """
    listed = tuple(choices)
    return UserError(f"There is no {kind} '{name}'; choose from {', '.join(listed)}{more}.{did_you_mean(name, listed)}")


# What people call things elsewhere → here.
ELSEWHERE = {
    "train": "run",
    "test": "evaluate",
    "plot": "show",
    "gpu": "cuda",
    "tf": "tensorflow",
    "keras": "tensorflow",
    "tensorflow": "keras",
}


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """ " Did you mean NAME?" with the choice that a wrong name is most like; a hint for a list with commas; else ""."""
    if "," in name:
        return " Separate several values by spaces."
    listed, lower = tuple(choices), name.lower()
    near = [choice for choice in listed if choice == ELSEWHERE.get(lower)]
    near += difflib.get_close_matches(lower, listed, n=1, cutoff=0.65)
    near += [choice for choice in listed if len(lower) > 2 and (lower in choice or choice in lower)]  # mnist, adamw
    return f" Did you mean {near[0]}?" if near else ""
