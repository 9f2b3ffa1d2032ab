"""Where keys stand in a TOML text: against documents made with known places, and against the parser's own tree."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umldisk.config.locate import DEEPEST, locate_keys
from umldisk.config.problems import KeyPath

ROOT = Path(__file__).parents[1]


def paths_of(value: object, path: KeyPath = ()) -> set[KeyPath]:
    """Return every path in a parsed document."""
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    found = {path} if path else set()
    for key, below in items:
        found |= paths_of(below, (*path, key))
    return found


# -- documents made with known places ---------------------------------------------------------------------------------


@dataclass
class Writer:
    """Writes a document piece by piece and notes on which line each path begins."""

    newline: str
    text: str = ""
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def put(self, piece: str) -> None:
        self.text += piece.replace("\n", self.newline)

    def note(self, *path: str | int, own: bool = False) -> None:
        here = self.text.count("\n") + 1
        if own:
            self.lines[path] = here
        else:
            self.lines.setdefault(path, here)


NAMES = st.sampled_from(["a", "b1", "size", "x-y", "10.1.0.6", "a.b", "", "#", "]", "é", 'q"q', "back\\slash", "t\ty"])
SCALARS = st.sampled_from(
    [
        *("1", "0x1F", "1.5e3", "inf", "true", "1979-05-27", "1979-05-27 07:32:00", "07:32:00"),
        *('""', '"a = 1 # no"', '"\\"]\\""', "''", "'\\'", "'\"'", "'#'"),
        *('"""\nx = [\n"""', '"""a\n[t]\n# \\""" b"""', '"""q"" """', '"""end""""', '"""end"""""', '""""""'),
        *("'''\n[x]\ny = 1'''", "'''it's '' '''", "'''e''''", "''''''", "'''\\'''"),
    ]
)
BLANKS = st.sampled_from(["", " ", "\t "])
BREAKS = st.sampled_from(["", "\n", " # ] } , = [\n", "\n\n  "])
REMARKS = st.sampled_from(["\n", " # x = 1\n", "\n# [t]\n\n", "\t\n"])


def quoted(draw: st.DrawFn, name: str) -> str:
    """Write a key in one of the ways it may be written."""
    ways = []
    if name and all(c.isascii() and (c.isalnum() or c in "-_") for c in name):
        ways.append(name)
    if "'" not in name and "\t" not in name:
        ways.append(f"'{name}'")
    escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t").replace("é", "\\u00e9")
    ways.append(f'"{escaped}"')
    return draw(st.sampled_from(ways))


def write_value(draw: st.DrawFn, out: Writer, path: KeyPath, depth: int) -> None:
    kind = draw(st.sampled_from(["scalar", "scalar", "array", "inline"])) if depth else "scalar"
    if kind == "scalar":
        out.put(draw(SCALARS))
    elif kind == "array":
        out.put("[" + draw(BREAKS))
        count = draw(st.integers(0, 3))
        for index in range(count):
            out.note(*path, index)
            write_value(draw, out, (*path, index), depth - 1)
            out.put(draw(BREAKS))
            if index < count - 1 or draw(st.booleans()):
                out.put("," + draw(BREAKS))
        out.put("]")
    else:
        out.put("{" + draw(BLANKS))
        names = draw(st.lists(NAMES, max_size=3, unique=True))
        for number, name in enumerate(names):
            out.put(("," if number else "") + draw(BLANKS))
            write_pair(draw, out, path, name, depth - 1)
            out.put(draw(BLANKS))
        out.put("}")


def write_pair(draw: st.DrawFn, out: Writer, table: KeyPath, name: str, depth: int) -> None:
    """Write `name = value`, or `name.more = value`, in the table."""
    out.note(*table, name)
    path: KeyPath = (*table, name)
    out.put(quoted(draw, name))
    for more in draw(st.lists(NAMES, max_size=2)):
        out.put(draw(BLANKS) + "." + draw(BLANKS))
        path = (*path, more)
        out.note(*path)
        out.put(quoted(draw, more))
    out.put(f"{draw(BLANKS)}={draw(BLANKS)}")
    write_value(draw, out, path, depth)


def write_header(draw: st.DrawFn, out: Writer, top: str, below: str | None, index: int | None) -> KeyPath:
    """Write `[top]`, `[top.below]` or, with an index, `[[top.below]]`; return the path of the table."""
    keys = [top] if below is None else [top, below]
    for length in range(1, len(keys)):
        out.note(*keys[:length])
    path: KeyPath = tuple(keys)
    if index is None:
        out.note(*path, own=True)
    else:
        out.note(*path)
        path = (*path, index)
        out.note(*path, own=True)
    written = (draw(BLANKS) + "." + draw(BLANKS)).join(quoted(draw, key) for key in keys)
    inside = f"{draw(BLANKS)}{written}{draw(BLANKS)}"
    out.put(f"[{inside}]" if index is None else f"[[{inside}]]")
    return path


@st.composite
def documents(draw: st.DrawFn) -> Writer:
    out = Writer(draw(st.sampled_from(["\n", "\r\n"])))
    out.put(draw(st.sampled_from(["", "# first\n", "\n \n"])))
    tops = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    for top in tops:
        tables: list[tuple[str | None, int | None]] = [(None, None)]
        tables += [(below, None) for below in draw(st.lists(st.sampled_from(["T1", "T 2"]), max_size=2, unique=True))]
        tables += [("many", index) for index in range(draw(st.integers(0, 3)))]
        if len(tables) > 1 and draw(st.booleans()):
            tables = [*tables[1:], tables[0]]  # a table's own header after those of the tables in it
        for below, index in tables:
            path = write_header(draw, out, top, below, index)
            out.put(draw(REMARKS))
            for name in draw(st.lists(NAMES, max_size=3, unique=True)):
                write_pair(draw, out, path, name, 3)
                out.put(draw(REMARKS))
    return out


@settings(max_examples=300, deadline=None)
@given(documents())
def test_every_key_of_a_generated_document_is_on_its_line(written: Writer) -> None:
    found = locate_keys(written.text)
    assert found == {path: line for path, line in written.lines.items() if len(path) <= DEEPEST}
    assert set(found) == {path[:DEEPEST] for path in paths_of(tomllib.loads(written.text))}


# -- single cases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["pyproject.toml", "fixtures/sites/zeit/umldisk.toml"])
def test_every_key_of_a_real_document_is_found(path: str) -> None:
    text = (ROOT / path).read_text()
    found = locate_keys(text)
    assert set(found) == {path[:DEEPEST] for path in paths_of(tomllib.loads(text))}
    lines = text.splitlines()
    for (*_above, last), line in found.items():
        if isinstance(last, str):
            assert last in lines[line - 1]


def test_a_tables_own_header_counts_before_what_implies_it() -> None:
    text = "[a.b]\nx = 1\n[a]\ny = 1\n"
    assert locate_keys(text) == {("a",): 3, ("a", "b"): 1, ("a", "b", "x"): 2, ("a", "y"): 4}


def test_tables_below_an_array_belong_to_its_last_table() -> None:
    text = "[[a]]\n[a.b]\nx = 1\n[[a]]\n[[a.c]]\n[[a.c]]\nz = 1\n"
    found = locate_keys(text)
    assert set(found) == paths_of(tomllib.loads(text))
    assert found[("a", 0, "b", "x")] == 3
    assert found[("a", 1, "c", 1, "z")] == 7


@pytest.mark.parametrize(
    "deep",
    [
        "[" * 80 + "'x'" + "]" * 80,
        "[" * 40 + '{ a.b = [ "]" ], c = """\n}""" }' + "]" * 40,
        "{a=" * 60 + "1" + "}" * 60,
        "[" * 30 + "{ 'k' = 1979-05-27 07:32:00, \"l\".m = [] },\n # ]\n [2, 'a'],\n" + "]" * 30,
    ],
)
def test_what_is_too_deep_is_passed_over(deep: str) -> None:
    text = f"v = {deep}\nafter = 1\n"
    found = locate_keys(text)
    assert found[("after",)] == text.count("\n")
    assert {path for path in paths_of(tomllib.loads(text)) if len(path) <= DEEPEST} == set(found)


def test_long_dotted_keys_cost_no_more_than_their_length() -> None:
    dotted = ".".join(["k"] * 900)
    text = f"[{dotted}]\nx = 1\n[[{dotted}x.y]]\n{dotted} = 2\n[after]\n"
    found = locate_keys(text)
    assert found[("after",)] == 5
    assert max(map(len, found)) == DEEPEST


def test_nothing_is_found_in_nothing() -> None:
    assert locate_keys("") == {}
    assert locate_keys("# a = 1\n\n") == {}
    assert locate_keys("a=1") == {("a",): 1}
