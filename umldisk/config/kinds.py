"""The kinds of values that a umldisk.toml holds: how each reads what the TOML parser found, and what it says else.

A scalar kind is a sentence for the manual and a function that returns the value or raises `Wrong`. Lists and arrays of
tables are made of scalars, and complain of each item at its own place. A value that is wrong reads as `INVALID`, so
that the rules which look at several settings can tell it from one that was not given.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

from umldisk.config.problems import Complaint, KeyPath, shown


class _Invalid(Enum):
    INVALID = "invalid"


INVALID: Final = _Invalid.INVALID
"""What a value that was complained of reads as."""


class Wrong(Exception):  # noqa: N818  (never leaves this package: it becomes a complaint)
    """A value that its kind does not take; what is None is said by the kind."""

    def __init__(self, *, found: str | None = None, expected: str | None = None, hint: str | None = None) -> None:
        super().__init__(found, expected, hint)
        self.found = found
        self.expected = expected
        self.hint = hint


class Kind(Protocol):
    """How one setting is read; `expected` says for people what it takes."""

    @property
    def expected(self) -> str:
        """What may stand there, as it ends the sentence "expected ..."."""

    def read(self, raw: object, at: KeyPath, complaints: list[Complaint]) -> Any:
        """Return the value of `raw`, or INVALID after adding to `complaints`."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value of a TOML type; `parse` may be left out where every value will do. A secret is never quoted."""

    expected: str
    parse: Callable[[Any], Any] | None = None
    toml_type: type = str
    secret: bool = False

    def read(self, raw: object, at: KeyPath, complaints: list[Complaint]) -> Any:
        """Return the parsed value; of another TOML type is as wrong as what `parse` does not take."""
        try:
            if type(raw) is not self.toml_type:
                raise Wrong
            return self.parse(raw) if self.parse else raw
        except Wrong as wrong:
            found = wrong.found or ("a text that is not shown here" if self.secret else shown(raw))
            complaints.append(Complaint(at, found, wrong.expected or self.expected, wrong.hint))
            return INVALID


@dataclass(frozen=True, slots=True)
class ListOf:
    """An array of scalars of one kind, none of them twice, at most `most`."""

    item: Scalar
    expected: str
    most: int | None = None

    def read(self, raw: object, at: KeyPath, complaints: list[Complaint]) -> Any:
        """Return the values as a tuple."""
        if not isinstance(raw, list):
            complaints.append(Complaint(at, shown(raw), self.expected))
            return INVALID
        before = len(complaints)
        values = tuple(self.item.read(item, (*at, index), complaints) for index, item in enumerate(raw))
        seen = set()
        for index, value in enumerate(values):
            if value is not INVALID and value in seen:
                complaints.append(Complaint((*at, index), f"{shown(raw[index])} a second time", "each only once"))
            seen.add(value)
        if self.most is not None and len(values) > self.most:
            complaints.append(Complaint(at, f"{len(values)} of them", f"at most {self.most}"))
        return values if len(complaints) == before else INVALID


@dataclass(frozen=True, slots=True)
class FalseOr:
    """true, false or a list: `true_is` and `false_is` are the values of the first two."""

    otherwise: ListOf
    expected: str
    true_is: object
    false_is: object

    def read(self, raw: object, at: KeyPath, complaints: list[Complaint]) -> Any:
        """Return the value of the list, or what stands for true and false."""
        if isinstance(raw, bool):
            return self.true_is if raw else self.false_is
        if not isinstance(raw, list):
            complaints.append(Complaint(at, shown(raw), self.expected))
            return INVALID
        return self.otherwise.read(raw, at, complaints)


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a table in an array."""

    kind: Kind
    required: bool = False


@dataclass(frozen=True, slots=True)
class Tables:
    """An array of at most `most` tables with these keys; reads as a tuple of dicts, with INVALID for a wrong value."""

    fields: Mapping[str, Field]
    expected: str
    most: int

    def read(self, raw: object, at: KeyPath, complaints: list[Complaint]) -> Any:
        """Return the tables, an empty one for what is none at all, so that each keeps its index."""
        if not isinstance(raw, list):
            complaints.append(Complaint(at, shown(raw), self.expected))
            return INVALID
        if len(raw) > self.most:
            complaints.append(Complaint(at, f"{len(raw)} of them", f"at most {self.most}"))
            return INVALID
        tables = []
        for index, item in enumerate(raw):
            if isinstance(item, dict):
                tables.append(self._read_table(item, (*at, index), complaints))
            else:
                complaints.append(wrong_table((*at, index), item))
                tables.append({})
        return tuple(tables)

    def _read_table(self, raw: dict[str, Any], at: KeyPath, complaints: list[Complaint]) -> dict[str, Any]:
        values = {}
        for key, item in raw.items():
            if key in self.fields:
                values[key] = self.fields[key].kind.read(item, (*at, key), complaints)
            else:
                complaints.append(unknown_key((*at, key), self.fields))
        for key, field in self.fields.items():
            if field.required and key not in raw:
                complaints.append(Complaint(at, f"no {key}", field.kind.expected))
        return values


def unknown_key(path: KeyPath, known: Iterable[str]) -> Complaint:
    """Complain of a key that there is none of, with the nearest of those that there are."""
    names = sorted(known)
    near = difflib.get_close_matches(str(path[-1]), names, n=1)
    hint = f"did you mean {near[0]}?" if near else None
    return Complaint(path, "an unknown key", f"one of {', '.join(names)}", hint)


def wrong_table(path: KeyPath, raw: object) -> Complaint:
    """Complain of something else where a table must be."""
    return Complaint(path, shown(raw), "a table")


def choice(*words: str, of: Callable[[str], Any] | None = None) -> Scalar:
    """Return the kind that takes one of these words, and makes it a value with `of`."""
    quoted = [f'"{word}"' for word in words]

    def parse(text: str) -> Any:
        if text not in words:
            near = difflib.get_close_matches(text, words, n=1)
            raise Wrong(hint=f'did you mean "{near[0]}"?' if near else None)
        return of(text) if of else text

    return Scalar(f"{', '.join(quoted[:-1])} or {quoted[-1]}", parse)


BOOLEAN = Scalar("true or false", toml_type=bool)
