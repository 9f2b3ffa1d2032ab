"""The errors: one line each, a code a class, and nothing in them that a terminal could act on."""

import errno
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umldisk import errors
from umldisk.errors import BusyError, DataError, NoInputError, StorageError, UmldiskError, from_os_error, printable

CODES = {
    "UsageError": 2,
    "DataError": 65,
    "NoInputError": 66,
    "CannotCreateError": 73,
    "StorageError": 74,
    "BusyError": 75,
    "HistoryError": 76,
}
_TREE_LINE = re.compile(r"^    [├└]── (\w+) +(\d+) ", re.MULTILINE)


def subclasses() -> dict[str, type[UmldiskError]]:
    return {cls.__name__: cls for cls in UmldiskError.__subclasses__() if cls.__module__ == errors.__name__}


def test_every_class_has_its_own_code() -> None:
    assert {name: cls.exit_code for name, cls in subclasses().items()} == CODES


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    documented = _TREE_LINE.findall(errors.__doc__ or "")
    assert {name: int(code) for name, code in documented} == CODES


def test_the_codes_stay_clear_of_findings_shells_and_signals() -> None:
    codes = [*CODES.values(), errors.FINDINGS_EXIT_CODE, 0]
    assert len(set(codes)) == len(codes)
    assert all(code < 126 for code in codes)


def test_the_command_line_documents_every_code() -> None:
    from umldisk.cli.group import EXIT_CODES

    assert set(EXIT_CODES) >= {0, errors.FINDINGS_EXIT_CODE, *CODES.values()}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DataError("it broke"), "it broke"),
        (DataError("it broke", where="a.cow"), "it broke (a.cow)"),
        (DataError("it broke", expected=0, found=""), "it broke (expected 0, found )"),
        (
            DataError("bad size", where="a, byte 12", expected="1", found=2),
            "bad size (a, byte 12, expected 1, found 2)",
        ),
        (BusyError("in use", where="a.cow"), "in use (a.cow)"),
        (BusyError("in use", where="a.cow", pid=17), "in use by PID 17 (a.cow)"),
        (BusyError("in use", where="a.cow", pid=17, umid="vm1"), "in use by PID 17, umid vm1 (a.cow)"),
    ],
)
def test_the_line_says_what_where_expected_and_found(error: UmldiskError, line: str) -> None:
    assert error.line() == str(error) == line


def test_the_facts_are_attributes() -> None:
    error = NoInputError("cannot open", where="x", expected="a file", found="a FIFO", hint="try another")
    facts = (error.what, error.where, error.expected, error.found, error.hint)
    assert facts == ("cannot open", "x", "a file", "a FIFO", "try another")
    busy = BusyError("in use", pid=4, umid="vm")
    assert (busy.pid, busy.umid) == (4, "vm")


@given(st.text() | st.binary().map(lambda raw: raw.decode(errors="surrogateescape")))
def test_a_line_is_always_printable_whatever_a_path_holds(path: str) -> None:
    line = DataError("bad header", where=path, found=path).line()
    assert line.isprintable()
    line.encode()


@given(st.text().filter(str.isprintable))
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@given(st.binary(max_size=60).filter(lambda raw: b"\\" not in raw))
def test_undecodable_bytes_are_shown_as_escapes(raw: bytes) -> None:
    shown = printable(raw.decode("ascii", errors="surrogateescape"))
    assert shown.encode("ascii").decode("unicode_escape").encode("latin-1") == raw


def test_what_the_system_refused_is_said_with_the_path() -> None:
    error = from_os_error(OSError(errno.ENOSPC, "No space left on device"), "write", "/x/new")
    assert isinstance(error, StorageError)
    assert error.line() == "cannot write: No space left on device (/x/new)"
    assert from_os_error(OSError("odd"), "sync", "f").line() == "cannot sync: odd (f)"
