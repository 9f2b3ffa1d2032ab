"""The command line of the benchmark; scripts/bench starts it in the checkout's environment."""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

import machine
import report
import scratch
from contest import Contest, Results, find_programs
from running import BenchError, floor_bytes
from workloads import GROUPS, Workload, select


def main() -> int:
    """Run what was asked for; 1 when a result was wrong, 2 when nothing could be measured."""
    options = _parse()
    signal.signal(signal.SIGTERM, _stop)
    results: list[Results] = []
    try:
        programs = find_programs(options.umldisk)
        with scratch.directory(options.dir) as directory:
            chosen = _possible(select(options.workloads))
            scratch.require_room(chosen, directory)
            about = machine.describe(directory, programs)
            # one by one, so that what is done is kept when somebody stops the rest
            results.extend(_run(workload, directory, programs, options) for workload in chosen)
    except (KeyboardInterrupt, SystemExit):
        if not results:
            raise
        print("bench: stopped; what follows is of the workloads that were done", file=sys.stderr)
    except (BenchError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    text = report.render(results, about, rounds=options.runs, floor_bytes=floor_bytes())
    print(text, end="")
    if options.write is not None:
        report.write_into(options.write, text)
    return int(any(finding.holds is False for result in results for finding in result.findings))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Time umldisk beside uml_moo, cp and qemu-img, and say which targets are reached.",
        epilog="; ".join(f"{name}: {' '.join(members)}" for name, members in GROUPS.items()),
    )
    parser.add_argument("workloads", nargs="*", default=["all"], metavar="WORKLOAD", help="W1, W6-written, quick, all")
    parser.add_argument("-n", "--runs", type=int, default=5, help="runs of each (default 5); the median counts")
    parser.add_argument("--dir", type=Path, help="where to work (default $TMPDIR); all workloads need 20 GB there")
    parser.add_argument("--timeout", type=float, default=60, metavar="SECONDS", help="end longer runs (default 60)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this Markdown file too")
    parser.add_argument("--umldisk", default="umldisk", metavar="PROGRAM", help="the umldisk to measure")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    return options


def _stop(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _possible(workloads: list[Workload]) -> list[Workload]:
    """Leave out, aloud, what cannot be run on this machine."""
    possible = []
    for workload in workloads:
        reason = scratch.obstacle(workload)
        if reason is None:
            possible.append(workload)
        else:
            print(f"bench: {workload.name} is left out: {reason}", file=sys.stderr)
    if not possible:
        raise BenchError("nothing is left to run")
    return possible


def _run(workload: Workload, directory: Path, programs: dict[str, str], options: argparse.Namespace) -> Results:
    with scratch.place_for(workload, directory) as place:
        return Contest(workload, place, programs, timeout_seconds=options.timeout).hold(options.runs)


if __name__ == "__main__":
    sys.exit(main())
