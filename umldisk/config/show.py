"""The settings that count, as TOML that gives the same settings again.

Every setting is on a line of its own with a comment that says where it comes from; what is not set has no line. Drives
are printed with all their settings and `layout` with all drives, so that nothing is inherited in what is printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from umldisk.config.effective import Effective, Origin, Setting, combine, printed_settings
from umldisk.config.problems import dotted, toml_text
from umldisk.config.schema import KEYS, SettingPath, Unset, key_of
from umldisk.config.site import Site

_WIDTH = 100


@dataclass(frozen=True, slots=True)
class ShownSetting:
    """One setting: its path below the guest's table, its value as TOML says it, where it was said."""

    path: SettingPath
    key: str
    value: Any
    origin: Origin
    line: int | None


@dataclass(frozen=True, slots=True)
class ShownGuest:
    """All settings that count for one guest."""

    guest: str
    settings: tuple[ShownSetting, ...]


@dataclass(frozen=True, slots=True)
class ShownKey:
    """One key of the schema; `default` is None where there is none, and `without` says what happens then."""

    key: str
    expected: str
    default: Any
    without: str | None
    meaning: str


def show_guests(site: Site, names: Iterable[str]) -> list[ShownGuest]:
    """Return the settings that count for these guests. Raises what `Site.configuration` raises."""
    lines = site.configuration.locate()
    shown = []
    for name in names:
        found = site.configuration.effective(name)
        settings = [_shown(path, setting, lines.get(setting.at)) for path, setting in _printed(found)]
        shown.append(ShownGuest(name, tuple(settings)))
    return shown


def _printed(effective: Effective) -> Iterator[tuple[SettingPath, Setting]]:
    for path, setting in printed_settings(effective):
        if path == ("layout",):
            yield path, Setting(list(effective.drives), effective.drives, setting.origin, setting.at)
        else:
            yield path, setting


def _shown(path: SettingPath, setting: Setting, line: int | None) -> ShownSetting:
    return ShownSetting(path, dotted(path), setting.raw, setting.origin, line)


def show_keys() -> list[ShownKey]:
    """Return all keys with their defaults."""
    return [_shown_key(key.path) for key in KEYS]


def _shown_key(path: SettingPath) -> ShownKey:
    key = key_of(path)
    is_unset = isinstance(key.default, Unset)
    return ShownKey(
        key=".".join(path),
        expected=key.kind.expected,
        default=None if is_unset else key.default,
        without=key.default.means if is_unset else None,
        meaning=key.doc,
    )


# -- as TOML ----------------------------------------------------------------------------------------------------------


def guest_lines(shown: ShownGuest) -> Iterator[str]:
    """Yield a guest's table as lines of TOML."""
    table = ("guest", shown.guest)
    by_table = groupby(shown.settings, key=lambda setting: setting.path[:-1])
    yield f"[{dotted(table)}]"
    for below, settings in by_table:
        if below:
            yield ""
            yield f"[{dotted((*table, *below))}]"
        for setting in settings:
            yield from _pair(setting.path[-1], setting.value, _origin(setting))


def _origin(setting: ShownSetting) -> str:
    return setting.origin.value + (f", line {setting.line}" if setting.line else "")


def default_lines() -> Iterator[str]:
    """Yield `[defaults]` as lines of TOML in which everything stands as it is without a umldisk.toml."""
    built_in = combine("", []).settings
    plain = [key for key in KEYS if key.path[0] not in ("drives", "hosts")]
    for below, keys in groupby(plain, key=lambda key: key.path[:-1]):
        yield from ([""] if below else [])
        yield f"[{dotted(('defaults', *below))}]"
        for key in keys:
            if isinstance(key.default, Unset):
                yield f"# {key.path[-1]}: {key.default.means}"
            else:
                yield from _pair(key.path[-1], key.default, key.doc)
    drives = [(path, setting) for path, setting in built_in.items() if path[0] == "drives"]
    for below, settings in groupby(drives, key=lambda item: item[0][:-1]):
        yield from ("", f"[{dotted(('defaults', *below))}]")
        for path, setting in settings:
            yield from _pair(path[-1], setting.raw, "")


def _pair(key: str, raw: object, comment: str) -> Iterator[str]:
    remark = f"  # {comment}" if comment else ""
    line = f"{dotted((key,))} = {to_toml(raw)}"
    if isinstance(raw, list) and len(line) > _WIDTH:
        yield f"{dotted((key,))} = [{remark}"
        yield from (f"    {to_toml(item)}," for item in raw)
        yield "]"
    else:
        yield line + remark


def to_toml(raw: object) -> str:
    """Return a value of TOML's types, but for dates and floats, which no setting has, as one line of TOML."""
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, list):
        return f"[{', '.join(map(to_toml, raw))}]"
    if isinstance(raw, dict):
        pairs = ", ".join(f"{dotted((key,))} = {to_toml(value)}" for key, value in raw.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return toml_text(raw) if isinstance(raw, str) else str(raw)
