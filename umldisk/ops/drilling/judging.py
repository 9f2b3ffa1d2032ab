"""What is found in what a drill sees: pure functions from reports and texts to the verdict of a step.

Whatever a guest says is an attacker's text: it is quoted, shortened, and made printable where it is printed; nothing on
the host depends on it but the verdict of the drill.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from umldisk.errors import printable
from umldisk.guest.agent import AgentRun
from umldisk.guest.ladder import Rung
from umldisk.guest.waiting import Waited
from umldisk.image.drives import Content, Drive
from umldisk.ops.drilling.steps import Found, failed, passed
from umldisk.ops.running.stopping import StopReport
from umldisk.ops.running.waiting import WaitReport

_MOST_LINES = 5
_MOST_LINE_CHARACTERS = 200
_TELLING = re.compile(
    r"kernel panic|not found|no such file|error while loading|cannot open shared|can't|cannot|could not|unable to"
    r"|\bfail|segfault|segmentation fault|exited with|i/o error|invalid|emergency|dependency failed",
    re.IGNORECASE,
)
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_NETWORK_UNIT = re.compile(r"networking\.service|ifup@.*\.service|systemd-networkd-wait-online(@.*)?\.service")
_ESCAPED = str.maketrans({" ": "\\040", "\t": "\\011", "\n": "\\012", "\\": "\\134"})
"""How /proc/mounts writes what stands between its fields (show_mnt_opts and mangle in the kernel's fs)."""


def telling_lines(lines: Sequence[str], *, most: int = _MOST_LINES) -> tuple[str, ...]:
    """Return the last lines that sound like a reason, without colours; where none does, the last lines."""
    plain = [_COLOUR.sub("", line).strip()[:_MOST_LINE_CHARACTERS] for line in lines]
    plain = [line for line in plain if line]
    chosen = [line for line in plain if _TELLING.search(line)] or plain
    return tuple(printable(line) for line in chosen[-most:])


def judge_wait(report: WaitReport, console: Sequence[str], *, timeout_seconds: float) -> Found:
    """Judge whether the guest became ready; `console` is the end of its transcript."""
    if report.outcome is Waited.REACHED:
        return passed(f"after {report.seconds:.1f} s")
    words = telling_lines(console)
    if report.outcome is Waited.TIMED_OUT:
        return failed(_quoting(f"the guest is not ready after {timeout_seconds:g} s", words), words)
    return failed(_quoting(f"the guest ended before it was ready, {status_words(report.status)}", words), words)


def status_words(status: int | None) -> str:
    """Return in words how a kernel ended."""
    if status is None:
        return "nobody saw how"
    return f"with exit status {status}" if status >= 0 else f"by signal {-status}"


def _quoting(what: str, words: Sequence[str]) -> str:
    """Return `what` with the line that is likeliest the reason: a library that lacks, else a panic, else the last."""
    for reason in ("error while loading shared libraries", "kernel panic", ""):
        lines = [line for line in words if reason in line.lower()]
        if lines:
            return f"{what}: {lines[-1]}"
    return what


def judge_mounts(drives: Iterable[Drive], mounts: str, swaps: str) -> Found:
    """Judge by the guest's /proc/mounts and /proc/swaps whether every drive is where it belongs."""
    at = {fields[1]: fields[0] for line in mounts.splitlines() if len(fields := line.split(" ")) >= 2}
    used = {fields[0] for line in swaps.splitlines() if (fields := line.split())}
    wrong = [what for drive in drives if (what := _misplaced(drive, at, used))]
    if wrong:
        return failed("; ".join(wrong))
    return passed("every drive is in use")


def _misplaced(drive: Drive, at: dict[str, str], swaps: set[str]) -> str | None:
    """Say what is wrong with the place of one drive; root may be called by the kernel's own name for it."""
    if drive.content is Content.SWAP:
        return None if drive.device in swaps else f"{drive.name}: {drive.device} is not swapped on"
    if drive.mount_point is None:
        return None
    names = {drive.device, "/dev/root"} if drive.mount_point == "/" else {drive.device}
    if at.get(drive.mount_point.translate(_ESCAPED)) in names:
        return None
    return f"{drive.name}: {drive.device} is not mounted on {drive.mount_point}"


def judge_probe(command: str, run: AgentRun) -> Found:
    """Judge a probe by its exit status."""
    if run.status == 0:
        return passed(command)
    lines = run.output.decode(errors="replace").splitlines()
    words = tuple(printable(line.rstrip()[:_MOST_LINE_CHARACTERS]) for line in lines if line.strip())[-_MOST_LINES:]
    what = f"exit status {run.status} of {command}"
    return failed(f"{what}: {words[-1]}" if words else what, words)


def judge_units(units: Sequence[str], *, has_network: bool) -> Found:
    """Judge failed units; those of a network that the guest would have are not held against a guest without one."""
    expected = [unit for unit in units if has_network and _NETWORK_UNIT.fullmatch(unit)]
    wrong = [unit for unit in units if unit not in expected]
    if wrong:
        return failed(f"failed: {', '.join(wrong)}")
    return passed("none failed" + (f" but {', '.join(expected)}, since there is no network" if expected else ""))


def judge_end(report: StopReport) -> Found:
    """Judge how the guest was ended: clean is ctrl-alt-del, exit status 0, and clean file systems."""
    if report.needed is None:
        return failed(f"the guest had ended by itself, {status_words(report.status)}")
    reasons = []
    if report.needed is not Rung.CAD:
        why = next((one.reason for one in report.tried if one.rung is Rung.CAD and one.reason), "it had no effect")
        reasons.append(f"not by ctrl-alt-del ({why}): {report.needed.value} was needed")
    if report.status != 0:
        reasons.append(f"the kernel ended {status_words(report.status)}")
    if unclean := [disk.drive for disk in report.disks if disk.clean is False]:
        reasons.append(f"not unmounted: {', '.join(unclean)}")
    if reasons:
        return failed(f"an unclean shutdown: {'; '.join(reasons)}")
    return passed(f"by ctrl-alt-del in {report.seconds:.1f} s")
