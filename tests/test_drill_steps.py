"""The steps of a drill on a made-up bench, and their verdicts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.kit.drills import FakeBench
from tests.kit.restorable import HOME, ROOT, SWAP, VAR
from umldisk.checkpoint.record import drilling, split_drilling
from umldisk.guest.agent import AgentRun
from umldisk.guest.ladder import Outcome as RungOutcome
from umldisk.guest.ladder import Rung, Tried
from umldisk.guest.waiting import Goal, Waited
from umldisk.image.drives import Drive
from umldisk.ops.drilling import judging
from umldisk.ops.drilling.steps import (
    Found,
    Outcome,
    Step,
    StepResult,
    failed,
    failures,
    how_far,
    passed,
    run_steps,
    skipped,
)
from umldisk.ops.running.stopping import DiskLeft, Stopped, StopReport
from umldisk.ops.running.waiting import WaitReport

_ALL = [
    *("check root", "check var", "boot", "ready", "mounts", "probe", "units", "power_off"),
    *("check_after root", "check_after var"),
]


def ran(bench: FakeBench) -> list[StepResult]:
    ticks = iter(range(100))
    return list(run_steps(bench, clock=lambda: float(next(ticks))))


# -- the steps --------------------------------------------------------------------------------------------------------


def test_a_good_guest_is_asked_everything_in_order() -> None:
    results = ran(bench := FakeBench())
    assert bench.asked == _ALL
    assert failures(results) == []
    assert [(one.step, one.drive) for one in results[:3]] == [
        (Step.CHECK, "root"),
        (Step.CHECK, "var"),
        (Step.BOOT, ""),
    ]
    assert {one.seconds for one in results} == {1.0}


@pytest.mark.parametrize(
    ("bad", "last", "told"),
    [
        ("check root", "check var", "check: root"),
        ("check var", "check var", "check: var"),
        ("boot", "boot", "boot"),
        ("ready", "ready", "ready"),
        ("mounts", "check_after var", "mounts"),
        ("probe", "check_after var", "probe"),
        ("units", "check_after var", "units"),
        ("power_off", "check_after var", "power off"),
        ("check_after root", "check_after var", "check afterwards: root"),
    ],
)
def test_what_failed_is_named_and_ends_what_stands_on_it(bad: str, last: str, told: str) -> None:
    results = ran(bench := FakeBench(finds={bad: failed("broken")}))
    assert bench.asked == _ALL[: _ALL.index(last) + 1]
    (wrong,) = failures(results)
    assert wrong.line == f"{told}: broken"


def test_every_failure_is_told_and_skipping_is_none() -> None:
    finds: dict[str, Found | BaseException] = {"probe": failed("a"), "units": skipped("no"), "power_off": failed("b")}
    results = ran(FakeBench(finds=finds))
    assert [one.line for one in failures(results)] == ["probe: a", "power off: b"]


def test_how_far_a_drill_came() -> None:
    assert how_far(ran(FakeBench()), ready_seconds=2.46) == "ready in 2.5 s, probed"
    assert how_far(ran(FakeBench(finds={"probe": skipped("none")})), ready_seconds=2.0) == "ready in 2.0 s"
    assert how_far(ran(FakeBench(finds={"ready": failed("x")})), ready_seconds=None) == "not ready"
    assert how_far(ran(FakeBench(finds={"check var": failed("x")})), ready_seconds=None) == "not booted"
    assert how_far([], ready_seconds=None) == "not restored"


@pytest.mark.parametrize("failure", ["", "check: var: a: b", "units: failed: x.service"])
def test_a_record_tells_how_far_and_why(failure: str) -> None:
    assert split_drilling(drilling("ready in 2.5 s, probed", failure)) == ("ready in 2.5 s, probed", failure)


# -- verdicts ---------------------------------------------------------------------------------------------------------


_PANIC = [
    "Run /sbin/init as init process",
    "Kernel panic - not syncing: No working init found.",
    "CPU: 0 PID: 1 Comm: swapper Not tainted 6.1",
    "Stack:",
    " 60035f60 60035f70",
]
_LIBRARY_LINE = "/sbin/init: error while loading shared libraries: libc.so.6: cannot open"
_LIBRARY = ["starting", f"\x1b[31m{_LIBRARY_LINE}\x1b[0m", *_PANIC[1:]]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (_PANIC, (_PANIC[1],)),
        (_LIBRARY, (_LIBRARY_LINE, _PANIC[1])),
        (["a", "b", "", "c\x07"], ("a", "b", "c\\x07")),
        (["[FAILED] Failed to start x.service", "login:"], ("[FAILED] Failed to start x.service",)),
        ([], ()),
    ],
)
def test_the_telling_lines_of_a_console(lines: list[str], told: tuple[str, ...]) -> None:
    assert judging.telling_lines(lines) == told


def waited(outcome: Waited, status: int | None = None) -> WaitReport:
    return WaitReport("g", Goal.READY, outcome, 3.25, status)


def test_becoming_ready() -> None:
    assert judging.judge_wait(waited(Waited.REACHED), [], timeout_seconds=9) == passed("after 3.2 s")
    late = judging.judge_wait(waited(Waited.TIMED_OUT), ["waiting for a disk"], timeout_seconds=9)
    assert late == failed("the guest is not ready after 9 s: waiting for a disk", ["waiting for a disk"])
    for console, reason in ((_PANIC, _PANIC[1]), (_LIBRARY, _LIBRARY_LINE)):
        dead = judging.judge_wait(waited(Waited.ENDED, -6), console, timeout_seconds=9)
        assert dead.what == f"the guest ended before it was ready, by signal 6: {reason}"
        assert dead.output[-1] == _PANIC[1]
    assert judging.judge_wait(waited(Waited.ENDED), [], timeout_seconds=9).what.endswith("nobody saw how")


_MOUNTS = "/dev/root / ext4 rw 0 0\nproc /proc proc rw 0 0\n/dev/ubdb /var ext4 rw 0 0\n/dev/ubdc /home ext4 rw 0 0\n"
_SWAPS = "Filename Type Size Used Priority\n/dev/ubde partition 8188 0 -2\n"


@pytest.mark.parametrize(
    ("mounts", "swaps", "wrong"),
    [
        (_MOUNTS, _SWAPS, None),
        (_MOUNTS.replace("/dev/root", "/dev/ubda"), _SWAPS, None),
        (_MOUNTS.replace("/dev/ubdb", "/dev/ubdc"), _SWAPS, "var: /dev/ubdb is not mounted on /var"),
        (_MOUNTS.replace("/dev/ubdb", "/dev/root"), _SWAPS, "var: /dev/ubdb is not mounted on /var"),
        (_MOUNTS + "tmpfs /home tmpfs rw 0 0\n", _SWAPS, "home: /dev/ubdc is not mounted on /home"),
        (_MOUNTS, "Filename\n", "swap: /dev/ubde is not swapped on"),
        (
            "",
            "",
            (
                "root: /dev/ubda is not mounted on /; var: /dev/ubdb is not mounted on /var;"
                " home: /dev/ubdc is not mounted on /home; swap: /dev/ubde is not swapped on"
            ),
        ),
        ("\n \nx\n" + _MOUNTS, "\n" + _SWAPS, None),
    ],
)
def test_every_drive_has_its_place(mounts: str, swaps: str, wrong: str | None) -> None:
    found = judging.judge_mounts((ROOT, VAR, HOME, SWAP), mounts, swaps)
    assert found == (failed(wrong) if wrong else passed("every drive is in use"))


def test_a_mount_point_with_a_blank() -> None:
    drive = Drive("d", 1, "/a b\\c")
    assert judging.judge_mounts([drive], "/dev/ubdb /a\\040b\\134c ext4 rw 0 0\n", "").outcome is Outcome.PASSED


def test_probes() -> None:
    assert judging.judge_probe("true", AgentRun(0, b"well\n", truncated=False)) == passed("true")
    output = b"".join(b"line %d\n" % number for number in range(20)) + b"\n/x: not found\x1b\n"
    found = judging.judge_probe("x --y", AgentRun(127, output, truncated=False))
    assert found.what == "exit status 127 of x --y: /x: not found\\x1b"
    assert found.output == (*(f"line {number}" for number in range(16, 20)), "/x: not found\\x1b")
    assert judging.judge_probe("x", AgentRun(1, b"", truncated=False)) == failed("exit status 1 of x")


@pytest.mark.parametrize("has_network", [True, False])
def test_failed_units(has_network: bool) -> None:
    def judge(*units: str) -> Found:
        return judging.judge_units(units, has_network=has_network)

    assert judge() == passed("none failed")
    assert judge("a.service", "b.mount") == failed("failed: a.service, b.mount")
    one = judge("networking.service")
    if has_network:
        assert one == passed("none failed but networking.service, since there is no network")
        assert judge("networking.service", "a.service") == failed("failed: a.service")
    else:
        assert one == failed("failed: networking.service")
    assert judge("networking.service.mount").outcome is Outcome.FAILED


def stopped(*rungs: Rung, status: int | None = 0, unclean: Sequence[str] = (), reason: str | None = None) -> StopReport:
    tried = [Tried(rung, RungOutcome.NO_EFFECT, 1.0, reason) for rung in rungs[:-1]]
    tried += [Tried(rung, RungOutcome.ENDED, 1.0) for rung in rungs[-1:]]
    disks = tuple(DiskLeft(name, f"/{name}", name not in unclean) for name in ("root", "var"))
    return StopReport(
        "g",
        Stopped.STOPPED if rungs else Stopped.NOT_RUNNING,
        needed=rungs[-1] if rungs else None,
        tried=tuple(tried),
        seconds=1.5,
        status=status,
        disks=disks,
    )


def test_shutdowns() -> None:
    assert judging.judge_end(stopped(Rung.CAD)) == passed("by ctrl-alt-del in 1.5 s")
    for report, words in (
        (stopped(Rung.CAD, Rung.HALT), "not by ctrl-alt-del (it had no effect): halt was needed"),
        (
            stopped(Rung.CAD, Rung.KILL, reason="no answer", status=-9),
            "(no answer): kill was needed; the kernel ended by",
        ),
        (stopped(Rung.CAD, status=1), "with exit status 1"),
        (stopped(Rung.CAD, unclean=["var"]), "not unmounted: var"),
    ):
        found = judging.judge_end(report)
        assert found.outcome is Outcome.FAILED
        assert found.what.startswith("an unclean shutdown: ")
        assert words in found.what
    assert judging.judge_end(stopped(status=134)) == failed("the guest had ended by itself, with exit status 134")
