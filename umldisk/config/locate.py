"""On which line of a TOML text a key stands.

The parser of the standard library tells values and no places. This finds the places, and only when there is a problem
to report, in a text that the parser has accepted: so it need not check anything, only know where keys and values begin
and end.

    [guest.x]                        ("guest",) and ("guest", "x") are here, until a header of their own says otherwise
    drives.var.size = "2G"           ("guest", "x", "drives"), (..., "var") and (..., "size")
    [[guest.x.network.interfaces]]   (..., "interfaces", 0), the next such header is 1
    routes = [                       (..., "routes")
        { to = "10.0.0.0/8" },       (..., "routes", 0) and (..., "routes", 0, "to")
    ]

A path has the line of the header that is its own, else of the first key that mentions it. What lies deeper than any
setting can lie is passed over. Comments and strings of all four kinds are recognised everywhere.
"""

from __future__ import annotations

import re

from umldisk.config.problems import KeyPath

DEEPEST = 12
"""How many steps a path has at most that is looked for."""

_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'  # up to two quotes may stand before the closing three
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'",
    re.DOTALL,
)
_ESCAPE = re.compile(r'\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(["\\bfnrt]))')
_ESCAPED = {'"': '"', "\\": "\\", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN_IN_NEST = re.compile(r"[^,\]}\[{=#\r\n\"']+")
_PLAIN_VALUE = re.compile(r"[^,\]}#\r\n]*")


def locate_keys(text: str) -> dict[KeyPath, int]:
    """Map every path in a valid TOML text to its line, counted from 1."""
    return _Scan(text).run()


class _Scan:
    """One pass over the text; `_at` is where it has come to, `_line` the line of `_counted` before it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counted = 0
        self._line = 1
        self._lines: dict[KeyPath, int] = {}
        self._lengths: dict[KeyPath, int] = {}  # how many tables an array of tables has so far

    def run(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self._pass_blank()
        while self._at < len(self._text):
            if self._next("["):
                table = self._header()
            else:
                self._pair(table)
            self._pass_blank()
        return self._lines

    def _header(self) -> KeyPath:
        line = self._line_here()
        is_array = self._text.startswith("[[", self._at)
        self._at += 2 if is_array else 1
        keys = self._dotted_key()[: DEEPEST + 1]
        self._at += 2 if is_array else 1
        path: KeyPath = ()
        for key in keys[:-1]:
            path = self._current((*path, key))
            self._note(path, line)
        path = (*path, keys[-1])
        if is_array:
            self._note(path, line)
            self._lengths[path] = self._lengths.get(path, 0) + 1
            path = self._current(path)
        if len(path) <= DEEPEST:
            self._lines[path] = line
        return path

    def _current(self, path: KeyPath) -> KeyPath:
        """Return the path of the table that a header means by `path`: in an array of tables the last."""
        length = self._lengths.get(path)
        return path if length is None else (*path, length - 1)

    def _pair(self, table: KeyPath) -> None:
        line = self._line_here()
        keys = self._dotted_key()
        path = table
        for key in keys[: max(DEEPEST + 1 - len(table), 1)]:
            path = (*path, key)
            self._note(path, line)
        self._at += 1  # the equals sign
        self._pass_blank()
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        if len(path) > DEEPEST:
            self._pass_deep()
        elif self._next("["):
            self._array(path)
        elif self._next("{"):
            self._inline_table(path)
        else:
            self._pass_scalar()

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        self._pass_blank()
        index = 0
        while not self._next("]"):
            self._note((*path, index), self._line_here())
            self._value((*path, index))
            self._pass_separator()
            index += 1
        self._at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        self._pass_blank()
        while not self._next("}"):
            self._pair(path)
            self._pass_separator()
        self._at += 1

    def _dotted_key(self) -> list[str]:
        keys = []
        while True:
            self._pass_blank()
            keys.append(self._simple_key())
            self._pass_blank()
            if not self._next("."):
                return keys
            self._at += 1

    def _simple_key(self) -> str:
        text, quoted = self._text, self._text[self._at] in "\"'"
        found = (_STRING if quoted else _BARE_KEY).match(text, self._at)
        assert found is not None, "the text was accepted as TOML"
        self._at = found.end()
        if not quoted:
            return found[0]
        return _ESCAPE.sub(_unescape, found[0][1:-1]) if found[0][0] == '"' else found[0][1:-1]

    def _pass_scalar(self) -> None:
        found = _STRING.match(self._text, self._at) or _PLAIN_VALUE.match(self._text, self._at)
        assert found is not None, "a plain value may be empty"
        self._at = found.end()

    def _pass_deep(self) -> None:
        """Pass a value with all that is nested in it, however deep, without looking inside."""
        depth = 0
        while True:
            if self._next("[") or self._next("{"):
                depth += 1
                self._at += 1
            elif depth and (self._next("]") or self._next("}")):
                depth -= 1
                self._at += 1
            elif depth and (self._next(",") or self._next("=")):
                self._at += 1
            else:
                self._pass_word(in_nest=depth > 0)
            if not depth:
                return
            self._pass_blank()

    def _pass_word(self, *, in_nest: bool) -> None:
        """Pass a string, a plain value or, in a nest, a key with its dots."""
        found = _STRING.match(self._text, self._at)
        found = found or (_PLAIN_IN_NEST if in_nest else _PLAIN_VALUE).match(self._text, self._at)
        assert found is not None, "the text was accepted as TOML"
        self._at = found.end()

    def _pass_separator(self) -> None:
        self._pass_blank()
        if self._next(","):
            self._at += 1
            self._pass_blank()

    def _pass_blank(self) -> None:
        found = _BLANK.match(self._text, self._at)
        assert found is not None, "blank may be nothing"
        self._at = found.end()

    def _next(self, character: str) -> bool:
        return self._text.startswith(character, self._at)

    def _note(self, path: KeyPath, line: int) -> None:
        if len(path) <= DEEPEST:
            self._lines.setdefault(path, line)

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line


def _unescape(found: re.Match[str]) -> str:
    digits = found[1] or found[2]
    return chr(int(digits, 16)) if digits else _ESCAPED[found[3]]
