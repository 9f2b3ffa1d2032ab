"""What counts for a guest: the defaults, then [defaults], then its own table, each setting with where it comes from.

A layer is one table that was read, by itself. `combine` puts layers on each other, key by key, into one map of settings
with every default filled in. The drives come out in the order of their ubd numbers: those of `layout`, then those that
a table describes which counts at least as much as the one that says `layout`. So a new drive needs no layout, and a
guest whose layout leaves one out is not given it by [defaults].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from umldisk.config.kinds import INVALID, unknown_key, wrong_table
from umldisk.config.problems import Complaint, KeyPath
from umldisk.config.schema import (
    ANY_NAME,
    KEY_OF,
    KEYS,
    NAME_KINDS,
    Key,
    SettingPath,
    Unset,
    drive_defaults,
    is_swap_by_name,
    key_of,
    pattern_of,
)
from umldisk.image.drives import Content


class Origin(Enum):
    """Where a setting comes from; what counts more comes later."""

    DEFAULT = "default"
    DEFAULTS_TABLE = "[defaults]"
    GUEST_TABLE = "guest"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: as TOML said it, as it was read (perhaps INVALID), and at which path of the document."""

    raw: Any
    value: Any
    origin: Origin
    at: KeyPath


@dataclass(frozen=True, slots=True)
class Layer:
    """One table: its path in the document, its settings, and the drives it has tables for."""

    at: KeyPath
    origin: Origin
    settings: Mapping[SettingPath, Setting]
    drives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Effective:
    """All that counts for the guest called `name`, whose table is at `at` in the document, if it has one."""

    name: str
    at: KeyPath
    settings: Mapping[SettingPath, Setting]
    drives: tuple[str, ...]
    drive_places: Mapping[str, KeyPath]

    def value(self, *path: str) -> Any:
        """The value of a setting, None when it is not set or wrong."""
        setting = self.settings.get(path)
        return None if setting is None or setting.value is INVALID else setting.value

    def is_wrong(self, *path: str) -> bool:
        """Whether the setting was complained of."""
        setting = self.settings.get(path)
        return setting is not None and setting.value is INVALID

    def place(self, *path: str) -> KeyPath:
        """Where to complain of a setting: at its own place, else at its drive's table, else at the guest's."""
        setting = self.settings.get(path)
        if setting is not None and setting.at:
            return setting.at
        return self.drive_places.get(path[1], self.at) if path[:1] == ("drives",) else self.at


def read_layer(raw: object, at: KeyPath, origin: Origin, complaints: list[Complaint]) -> Layer:
    """Read one table of settings; what is wrong is added to `complaints`."""
    reader = _Reader(at, origin, complaints)
    reader.read_item(raw, ())
    tables = raw.get("drives") if isinstance(raw, dict) else None
    names = tables if isinstance(tables, dict) else {}
    drives = tuple(name for name, table in names.items() if isinstance(table, dict) and _is_drive_name(name))
    return Layer(at, origin, reader.settings, drives)


class _Reader:
    """Goes through the tables of one layer, whose own path in the document is `at`."""

    def __init__(self, at: KeyPath, origin: Origin, complaints: list[Complaint]) -> None:
        self.at = at
        self.origin = origin
        self.complaints = complaints
        self.settings: dict[SettingPath, Setting] = {}

    def read_item(self, raw: object, path: SettingPath) -> None:
        """Read what stands at `path`: a setting, or a table of settings."""
        at = (*self.at, *path)
        if pattern_of(path) in KEY_OF:
            value = key_of(path).kind.read(raw, at, self.complaints)
            self.settings[path] = Setting(raw, value, self.origin, at)
        elif isinstance(raw, dict):
            self._read_table(raw, path)
        else:
            self.complaints.append(wrong_table(at, raw))

    def _read_table(self, raw: dict[str, Any], path: SettingPath) -> None:
        pattern = pattern_of(path)
        known = {key.path[len(pattern)] for key in KEYS if key.path[: len(pattern)] == pattern}
        for name, item in raw.items():
            at = (*self.at, *path, name)
            if pattern in NAME_KINDS:
                is_known = NAME_KINDS[pattern].read(name, at, self.complaints) is not INVALID
            elif not (is_known := name in known):
                self.complaints.append(unknown_key(at, known))
            if is_known:
                self.read_item(item, (*path, name))


def _is_drive_name(name: str) -> bool:
    return NAME_KINDS[("drives",)].read(name, (), []) is not INVALID


def combine(name: str, layers: list[Layer]) -> Effective:
    """Put the layers, of which the last counts most, over the defaults."""
    settings = {key.path: _default(key.path, key.default) for key in KEYS if _has_default(key)}
    for layer in layers:
        settings |= layer.settings
    drives = _drives(settings[("layout",)], layers)
    for drive in drives:
        chosen = settings.get(("drives", drive, "fs"))
        is_swap = chosen.value is Content.SWAP if chosen and chosen.value is not INVALID else is_swap_by_name(drive)
        for field, raw in drive_defaults(drive, is_swap=is_swap).items():
            path = ("drives", drive, field)
            settings.setdefault(path, _default(path, raw))
    places: dict[str, KeyPath] = {drive: (*layer.at, "drives", drive) for layer in layers for drive in layer.drives}
    return Effective(name, layers[-1].at if layers else (), settings, drives, places)


def _has_default(key: Key) -> bool:
    return ANY_NAME not in key.path and not isinstance(key.default, Unset)


def _default(path: SettingPath, raw: object) -> Setting:
    complaints: list[Complaint] = []
    value = key_of(path).kind.read(raw, (), complaints)
    assert not complaints, f"the default of {path} is wrong"
    return Setting(raw, value, Origin.DEFAULT, ())


def _drives(layout: Setting, layers: list[Layer]) -> tuple[str, ...]:
    order = [layer.origin for layer in layers]
    since = order.index(layout.origin) if layout.origin in order else 0
    named = key_of(("layout",)).default if layout.value is INVALID else layout.value
    described = (name for layer in layers[since:] for name in layer.drives)
    return tuple(dict.fromkeys([*named, *described]))


def printed_settings(effective: Effective) -> Iterator[tuple[SettingPath, Setting]]:
    """Yield the settings in the order of the schema; drives in theirs, and none that the guest has not."""
    for key in KEYS:
        if ANY_NAME not in key.path:
            if key.path in effective.settings:
                yield key.path, effective.settings[key.path]
        elif key.path[0] != "drives":
            matching = (path for path in effective.settings if path[0] == key.path[0])
            yield from ((path, effective.settings[path]) for path in matching)
    fields = [key.path[2] for key in KEYS if key.path[0] == "drives"]
    for drive in effective.drives:
        paths = (("drives", drive, field) for field in fields)
        yield from ((path, effective.settings[path]) for path in paths if path in effective.settings)
