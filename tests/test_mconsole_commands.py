"""Which commands of mconsole are sent, and which are not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umldisk.errors import UsageError
from umldisk.guest.mconsole.commands import COMMANDS, PROC_FILES, SYSRQ, encode
from umldisk.guest.mconsole.packets import MAX_REQUEST_BYTES

GOOD = [
    "version",
    "help",
    "halt",
    "reboot",
    "cad",
    "stop",
    "go",
    "config mem",
    "config mem=64M",
    "config ubd0",
    "config ubd15=/disks/with space,and comma",
    "config ubd5r=/disks/x",
    "config con0",
    "config ssl1=pty",
    "config eth0=tuntap,,,192.168.0.254",
    "config vec0=transport=tap",
    "remove ubd5",
    "remove eth0",
    "remove con6",
    "sysrq s",
    "sysrq u",
    "sysrq j",
    "sysrq m",
    "sysrq 9",
    "log a line, with ünïcode",
    "log  indented",
    "proc meminfo",
    "proc key-users",
    "stack 1",
    "stack 4194304",
]

BAD = [
    "cad2",
    "cad now",
    "cad ",
    " cad",
    "CAD",
    "Cad",
    "versio",
    "versions",
    "version ",
    "halt -f",
    "stopp",
    "go  ",
    "goo",
    "restart",
    "config",
    "config ",
    "config ubd",
    "config ubd0r",
    "config ubd0=",
    "config  ubd0",
    "config memory",
    "config nosuch0",
    "config ubd0x=/disks/x",
    "config con0r=pty",
    "config ubd\u0663",
    "remove",
    "remove mem",
    "remove ubd5=x",
    "remove ubd5 ",
    "sysrq",
    "sysrq ",
    "sysrq S",
    "sysrq sync",
    "sysrq t",
    "sysrq c",
    "sysrq w",
    "sysrq  s",
    "sysrqs",
    "log",
    "log ",
    "log   ",
    "proc",
    "proc kcore",
    "proc kmsg",
    "proc 1/status",
    "proc ../etc/passwd",
    "proc /meminfo",
    "proc meminfo ",
    "stack",
    "stack 0",
    "stack -1",
    "stack 1 2",
    "stack \u0661",
    "stack 0x10",
    "stack 99999999999",
]


@pytest.mark.parametrize("command", GOOD)
def test_a_known_command_is_sent_as_it_is(command: str) -> None:
    assert encode(command) == command.encode()


@pytest.mark.parametrize("command", BAD)
def test_everything_else_takes_raw(command: str) -> None:
    with pytest.raises(UsageError) as caught:
        encode(command)
    assert "--raw" in (caught.value.hint or "")
    assert encode(command, raw=True) == command.encode()


def test_there_is_a_good_example_of_every_command() -> None:
    assert {command.split()[0] for command in GOOD} == set(COMMANDS)


@pytest.mark.parametrize("letter", sorted(SYSRQ))
def test_each_letter_of_sysrq_that_is_described_is_sent(letter: str) -> None:
    assert encode(f"sysrq {letter}") == f"sysrq {letter}".encode()
    assert SYSRQ[letter]


@pytest.mark.parametrize("letter", sorted(set("abcdefghijklmnopqrstuvwxyz0123456789") - set(SYSRQ)))
def test_no_other_letter_is(letter: str) -> None:
    with pytest.raises(UsageError, match=r"sysrq takes LETTER .*found"):
        encode(f"sysrq {letter}")


def test_a_longer_word_never_passes_for_a_command_it_begins_with() -> None:
    for name in COMMANDS:
        for tail in ("x", "2", "-", "\u00a0", "s"):
            with pytest.raises(UsageError, match="no such mconsole command"):
                encode(f"{name}{tail} meminfo")


@pytest.mark.parametrize("character", [chr(n) for n in (1, 7, 9, 10, 13, 27, 31, 127, 0x85, 0x9B)])
def test_a_control_character_takes_raw(character: str) -> None:
    with pytest.raises(UsageError, match="control character") as caught:
        encode(f"log a{character}b")
    assert caught.value.line().isprintable()
    assert encode(f"log a{character}b", raw=True) == f"log a{character}b".encode()


@pytest.mark.parametrize("raw", [False, True])
def test_what_fits_into_no_packet_is_refused_even_raw(raw: bool) -> None:
    longest = "log " + "x" * (MAX_REQUEST_BYTES - 4)
    assert len(encode(longest, raw=raw)) == 511
    for command, message in [
        (longest + "x", "too long .*expected at most 511 bytes, found 512"),
        ("log " + "ü" * 254, "too long .*found 512"),
        ("log a\0b", "NUL"),
        ("", "empty"),
        ("log \ud800", "no text"),
    ]:
        with pytest.raises(UsageError, match=message):
            encode(command, raw=raw)


def test_a_path_that_is_no_utf8_is_sent_as_it_is() -> None:
    assert encode("config ubd5=/disks/\udcff") == b"config ubd5=/disks/\xff"


def sent(command: str) -> tuple[bytes, str]:
    """Return what is sent for a command, or why nothing is."""
    try:
        return encode(command), ""
    except UsageError as error:
        return b"", error.line()


@given(st.text(max_size=40))
def test_whatever_is_sent_begins_with_a_whole_known_word(command: str) -> None:
    data, refusal = sent(command)
    assert data.split(b" ")[0].decode() in COMMANDS if data else refusal.isprintable()


@given(st.sampled_from(sorted(COMMANDS)), st.text(alphabet="abcmstu0189=/. -", max_size=12))
def test_an_argument_is_a_described_one(name: str, argument: str) -> None:
    if not sent(f"{name} {argument}")[0]:
        return
    assert COMMANDS[name].argument
    if name == "sysrq":
        assert argument in SYSRQ
    if name == "proc":
        assert argument in PROC_FILES
    if name == "stack":
        assert re.fullmatch("[1-9][0-9]*", argument)
