"""The host's side of the agent line, against guests that answer, lie, flood, stay silent and come late."""

import contextlib
import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kit.agent_guest import (
    LONG_SECONDS,
    SHORT_SECONDS,
    AgentGuest,
    Answering,
    line,
    obedient,
    read_back,
    silent,
    talking,
)
from umldisk.errors import BusyError, NoInputError, StorageError, UsageError
from umldisk.guest import agent_line
from umldisk.guest.agent import OUTPUT_BYTES, Agent, AgentError, NoAnswerError, RefusedError


def test_an_agent_answers(tmp_path: Path) -> None:
    with talking(tmp_path, obedient) as (agent, guest):
        assert agent.ping()
        agent.freeze(["/", "/var", "/home"], guard_seconds=7)
        agent.thaw()
        found = agent.run("echo  it's \\ \t$HOME é", 2.5)
        assert guest.seen[:4] == ["ping", "ping", "freeze 7 /var /home /", "thaw"]
    assert (found.status, found.truncated) == (3, False)
    assert found.output.decode() == "3 echo  it's \\ \t$HOME é"


def test_no_token_comes_twice(tmp_path: Path) -> None:
    with talking(tmp_path, obedient) as (agent, guest):
        assert all(agent.ping() for _ in range(20))
    assert len(set(guest.requests)) == 20


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_a_request_is_one_printable_line_that_gives_the_command_back(command: str) -> None:
    from umldisk.guest.agent import _words

    if not command.strip():
        return
    sent = _words(command)
    assert re.fullmatch(r"[!-~]+( [!-~]+)*", sent)
    assert " ".join(read_back(word) for word in sent.split()) == command


def test_a_mount_point_with_a_blank_stays_one_word(tmp_path: Path) -> None:
    with talking(tmp_path, obedient) as (agent, guest):
        agent.freeze(["/a b\n!"])
    assert guest.seen[1] == "freeze 30 /a\\0040b\\0012!"


@pytest.mark.parametrize("points", [[], ["var"], ["/var", ""], ["/a\0b"]])
def test_what_is_no_mount_point_is_not_sent(tmp_path: Path, points: list[str]) -> None:
    with talking(tmp_path, obedient) as (agent, guest), pytest.raises(UsageError):
        agent.freeze(points)
    assert guest.seen == []


@pytest.mark.parametrize("command", ["", " ", "a\0b", "x" * agent_line.MOST_REQUEST_BYTES])
def test_what_cannot_be_carried_is_not_sent(tmp_path: Path, command: str) -> None:
    with talking(tmp_path, obedient) as (agent, guest), pytest.raises(UsageError):
        agent.run(command, 1)
    assert guest.seen == []


def test_a_silent_guest_is_not_waited_for(tmp_path: Path) -> None:
    with talking(tmp_path, silent, timeout_seconds=SHORT_SECONDS) as (agent, _):
        begun = time.monotonic()
        assert not agent.ping()
        assert time.monotonic() - begun >= SHORT_SECONDS
        for ask in (agent.thaw, lambda: agent.freeze(["/var"]), agent.failed_units):
            with pytest.raises(NoAnswerError, match="did not answer to"):
                ask()


def test_a_freeze_that_is_not_answered_is_taken_back(tmp_path: Path) -> None:
    def answering(token: str, verb: str, rest: str) -> Iterable[bytes]:
        return [] if verb == "freeze" else [line(f"{token} ok")]

    with (
        talking(tmp_path, answering, timeout_seconds=2) as (agent, guest),
        pytest.raises(NoAnswerError, match="did not answer to freeze"),
    ):
        agent.freeze(["/var"], guard_seconds=0)
    assert guest.seen[:2] == ["ping", "freeze 0 /var"]
    assert set(guest.seen[2:]) == {"thaw"}


def test_leaving_thaws(tmp_path: Path) -> None:
    with talking(tmp_path, obedient) as (agent, guest):
        agent.freeze(["/var"])
    assert guest.seen == ["ping", "freeze 30 /var", "thaw"]


def test_leaving_sends_nothing_where_nothing_is_frozen(tmp_path: Path) -> None:
    with talking(tmp_path, obedient) as (agent, guest):
        agent.freeze(["/var"])
        agent.thaw()
    assert guest.seen == ["ping", "freeze 30 /var", "thaw"]


def test_a_refusal_is_shown_with_printable_words(tmp_path: Path) -> None:
    def answering(token: str, verb: str, rest: str) -> Iterable[bytes]:
        if verb == "ping":
            return [line(f"{token} ok")]
        return [b"!%s err no \x1b[2Jway\xff\xe2\x80\xae%s\n" % (token.encode(), b"x" * 1000)]

    with talking(tmp_path, answering) as (agent, _):
        for ask in (agent.thaw, lambda: agent.freeze(["/var"]), lambda: agent.run("true", 1)):
            with pytest.raises(RefusedError) as refused:
                ask()
            said = refused.value.line()
            assert said.isprintable()
            assert "no \\x1b[2Jway\\xff\\u202exxx" in said
            assert len(said) < 400 + len(str(tmp_path))
            assert refused.value.exit_code == StorageError.exit_code


def test_a_late_answer_is_no_answer_to_the_next_request(tmp_path: Path) -> None:
    kept: list[str] = []

    def answering(token: str, verb: str, rest: str) -> Iterable[bytes]:
        kept.append(token)
        if len(kept) == 1:
            return []
        late = line(f"{kept[0]} err late")
        return [late, line(f"{token} ok"), late] if len(kept) == 2 else [late]

    with talking(tmp_path, answering, timeout_seconds=SHORT_SECONDS) as (agent, _):
        assert not agent.ping()
        agent.thaw()
        assert not agent.ping()


def test_stale_bytes_are_thrown_away_both_ways(tmp_path: Path) -> None:
    guest = AgentGuest(tmp_path, obedient)
    try:
        os.write(guest.output, b"x" * 60_000)
        with Agent(tmp_path, timeout_seconds=LONG_SECONDS) as agent:
            assert agent.ping()
    finally:
        guest.close()


@contextmanager
def _unread(directory: Path) -> Iterator[tuple[int, int]]:
    """Both FIFOs, held open by somebody who reads nothing."""
    with contextlib.ExitStack() as opened:
        ends = []
        for name in (agent_line.INPUT, agent_line.OUTPUT):
            os.mkfifo(directory / name)
            ends.append(os.open(directory / name, os.O_RDWR | os.O_NONBLOCK))
            opened.callback(os.close, ends[-1])
        yield ends[0], ends[1]


def test_requests_that_nobody_read_are_taken_out(tmp_path: Path) -> None:
    with _unread(tmp_path) as (line, _):
        for _ in range(3):
            with Agent(tmp_path, timeout_seconds=0.01) as agent:
                assert not agent.ping()
                assert not agent.ping()
        (request,) = os.read(line, 1 << 16).split(b"\n")[1:-1]
        assert request.endswith(b" ping")


def test_a_full_line_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _unread(tmp_path) as (line, _), Agent(tmp_path, timeout_seconds=SHORT_SECONDS) as agent:
        monkeypatch.setattr(agent_line.AgentLine, "drain", lambda _: None)
        with contextlib.suppress(BlockingIOError):
            while os.write(line, b"x" * 4096):
                pass
        with pytest.raises(NoAnswerError, match="does not read"):
            agent.thaw()


def _flood(piece: bytes) -> Answering:
    def answering(token: str, verb: str, rest: str) -> Iterator[bytes]:
        while True:
            yield piece.replace(b"TOKEN", token.encode())

    return answering


@pytest.mark.parametrize(
    "piece",
    [b"x" * 65536, b"\n" * 65536, b"\0\r\n" * 9999, b"!TOKEN out 61\n" * 999, b"!TOKEN\n!TOKEN okay\n" * 999],
    ids=["one line", "empty lines", "control bytes", "output", "near misses"],
)
def test_a_flood_is_cut_off(tmp_path: Path, piece: bytes) -> None:
    with talking(tmp_path, _flood(piece)) as (agent, _), pytest.raises(AgentError, match="without end"):
        agent.run("true", 1)


def test_a_long_line_is_dropped_and_the_next_one_is_read(tmp_path: Path) -> None:
    def answering(token: str, verb: str, rest: str) -> Iterable[bytes]:
        mark = f"!{token} ".encode()
        return [mark + b"err " + b"x" * 4096, mark + b"err\n", b"x" * 200_000, b"\n" + mark + b"ok\r\n"]

    with talking(tmp_path, answering) as (agent, _):
        agent.thaw()


@pytest.mark.parametrize(
    ("given_bytes", "truncated"), [(0, False), (OUTPUT_BYTES, False), (OUTPUT_BYTES + 1, True), (300_000, True)]
)
def test_output_is_bounded(tmp_path: Path, given_bytes: int, truncated: bool) -> None:
    data = bytes(range(256)) * (given_bytes // 256) + b"!" * (given_bytes % 256)

    def answering(token: str, verb: str, rest: str) -> Iterable[bytes]:
        for start in range(0, len(data), 16):
            yield f"!{token} out {data[start : start + 16].hex(' ')}\n".encode()
        yield line(f"{token} end 0")

    with talking(tmp_path, answering) as (agent, _):
        found = agent.run("cat it", 10)
    assert found.output == data[:OUTPUT_BYTES]
    assert found.truncated is truncated


@pytest.mark.parametrize("end", ["", " x", " 256", " -1", " 9999999", " 1 2", " ¹"])
def test_a_status_that_is_none_ends_nothing(tmp_path: Path, end: str) -> None:
    def answering(token: str, verb: str, rest: str) -> Iterable[bytes]:
        return [line(f"{token} out zz"), line(f"{token} end{end}"), line(f"{token} end 255")]

    with talking(tmp_path, answering) as (agent, _):
        found = agent.run("true", 1)
    assert (found.status, found.output) == (255, b"")


def test_failed_units_are_their_names(tmp_path: Path) -> None:
    listing = b"a.service loaded failed failed A thing\n\n\x1b[1mb\\x2dc.mount  loaded\n"

    def answering(token: str, verb: str, rest: str) -> Iterable[bytes]:
        return [line(f"{token} out {listing.hex()}"), line(f"{token} end 0")]

    with talking(tmp_path, answering) as (agent, _):
        assert agent.failed_units() == ("a.service", "\\x1b[1mb\\x2dc.mount")


def test_a_list_of_failed_units_that_failed_is_an_error(tmp_path: Path) -> None:
    def answering(token: str, verb: str, rest: str) -> Iterable[bytes]:
        return [line(f"{token} out {b'Failed to connect'.hex()}"), line(f"{token} end 1")]

    with talking(tmp_path, answering) as (agent, _), pytest.raises(RefusedError, match="Failed to connect"):
        agent.failed_units()


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with talking(tmp_path, obedient) as (agent, _):
        with pytest.raises(BusyError, match="the guest's agent is in use") as busy, Agent(tmp_path):
            pytest.fail("two at once")
        assert busy.value.pid is None or busy.value.pid == os.getpid()
        assert agent.ping()
    with pytest.raises(NoAnswerError), Agent(tmp_path) as next_one:
        next_one.thaw()


def test_a_guest_without_a_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no agent line"), Agent(tmp_path / "none"):
        pytest.fail("there is none")
    with pytest.raises(NoInputError, match="no agent line"), Agent(tmp_path):
        pytest.fail("there is none")
    for name in (agent_line.INPUT, agent_line.OUTPUT):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(NoInputError, match="no agent line"), Agent(tmp_path):
        pytest.fail("these are files")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "real")
    (tmp_path / agent_line.INPUT).symlink_to("real")
    with pytest.raises(StorageError, match="symbolic links"), Agent(tmp_path):
        pytest.fail("followed")


def test_nothing_stays_open_when_entering_fails(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / agent_line.INPUT)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(NoInputError), Agent(tmp_path):
        pytest.fail("half a line")
    assert os.listdir("/proc/self/fd") == before


def test_the_end_of_the_guest_is_noticed(tmp_path: Path) -> None:
    guests: list[AgentGuest] = []

    def answering(token: str, verb: str, rest: str) -> Iterable[bytes]:
        # What a dying kernel does: all of its descriptors go at once.
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (guests[0].input, guests[0].output):
            os.dup2(null, fd)
        os.close(null)
        return []

    with talking(tmp_path, answering) as (agent, guest):
        guests.append(guest)
        begun = time.monotonic()
        with pytest.raises(NoAnswerError, match="no guest holds the agent line"):
            agent.thaw()
        assert not agent.ping()
        assert time.monotonic() - begun < LONG_SECONDS


_NOISE = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"\n", b"\r\n", b"!", b"!TOKEN", b"?TOKEN ping\n", b"\n!TOKEN ", b"\0", b"\x1b]0;", b"\n!0123 ok\n"]
    ),
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.lists(_NOISE, max_size=12), output=st.binary(max_size=200), status=st.integers(0, 255), data=st.data())
def test_an_answer_is_found_in_any_noise_however_it_is_split(
    noise: list[bytes], output: bytes, status: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Noise that is an answer by itself would be a lie, which the host has to take for the answer.
    lies = [b"".join(noise).replace(b"TOKEN ", b"TOKEN")]
    cuts = sorted(data.draw(st.lists(st.integers(0, 1000), max_size=6)))

    def answering(token: str, verb: str, rest: str) -> Iterable[bytes]:
        answer = b"".join(lies) + line(f"{token} out {output.hex(' ')}") + line(f"{token} end {status}")
        whole = answer.replace(b"TOKEN", b"%s" % token.encode())
        edges = [0, *(min(cut, len(whole)) for cut in cuts), len(whole)]
        return [whole[start:end] for start, end in itertools.pairwise(edges)]

    with talking(tmp_path_factory.mktemp("line"), answering) as (agent, _):
        found = agent.run("true", 1)
    assert (found.status, found.output) == (status, output)
