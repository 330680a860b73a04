"""The exceptions that users are meant to read."""

from collections.abc import Iterable
from difflib import get_close_matches


class VsrError(Exception):
    """Something the user can mend: the message names the file or field, the value found and the remedy."""


class Stopped(Exception):  # noqa: N818  nothing went wrong
    """Work that ended in time and on purpose, nothing lost: the message says how to go on."""


def unknown(kind: str, value: str, known: Iterable[str]) -> VsrError:
    """The error for a name that is none of `known`, with the nearest known name as the remedy."""
    known = sorted(known)
    near = get_close_matches(value, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "choose one of: " + ", ".join(known)
    return VsrError(f"unknown {kind} '{value}': {hint}")
