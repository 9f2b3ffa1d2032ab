"""The command line of the benchmark; scripts/bench starts it in the checkout's environment."""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

import report
import scratch
from building.suite import BuildSuite
from checkpointing.suite import CheckpointSuite
from living.suite import LiveSuite
from merging import MergeSuite
from running import BenchError
from workloads import GROUPS

_SUITES: dict[str, type[BuildSuite | CheckpointSuite | LiveSuite]] = {
    "build": BuildSuite,
    "checkpoint": CheckpointSuite,
    "live": LiveSuite,
}


def main() -> int:
    """Run what was asked for; 1 when a result was wrong, 2 when nothing could be measured."""
    options = _parse()
    suite = _SUITES.get(options.workloads[0], MergeSuite)(options)
    signal.signal(signal.SIGTERM, _stop)
    try:
        with scratch.directory(options.dir) as directory:
            suite.measure(directory)
    except (KeyboardInterrupt, SystemExit):
        if not suite.has_results:
            raise
        print("bench: stopped; what follows is what was done", file=sys.stderr)
    except (BenchError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    text = suite.render()
    print(text, end="")
    if options.write is not None:
        report.write_into(options.write, text, suite.marks)
    return int(suite.is_wrong)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        usage="scripts/bench [options] [WORKLOAD ...]\n       scripts/bench [options] build [B1 B2 B3 B4]\n"
        "       scripts/bench [options] checkpoint [C1 C2 C3 | quick]\n"
        "       scripts/bench [options] live [L1 L2 L3 | quick]",
        description="Time umldisk beside uml_moo, cp and qemu-img, building beside tar and mke2fs, checkpoints beside "
        "restic and borg, or how long a running guest stands still for one, and say which targets are reached.",
        epilog="; ".join(f"{name}: {' '.join(members)}" for name, members in GROUPS.items()),
    )
    parser.add_argument("workloads", nargs="*", default=["all"], metavar="WORKLOAD", help="W1, W6-written, quick, all")
    parser.add_argument("-n", "--runs", type=int, default=5, help="runs of each (default 5); the median counts")
    parser.add_argument(
        "--dir", type=Path, help="where to work (default $TMPDIR); all need 20 GB there, checkpoints 45 GB"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="end longer runs (default 60, of builds 300, checkpoints 600 seconds)",
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this Markdown file too")
    parser.add_argument("--umldisk", default="umldisk", metavar="PROGRAM", help="the umldisk to measure")
    parser.add_argument(
        "--archive", type=Path, metavar="TAR", help="build: a Debian for B1, in place of one that mmdebstrap makes"
    )
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    if options.archive is not None and not options.archive.is_file():
        parser.error(f"there is no archive {options.archive}")
    return options


def _stop(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
