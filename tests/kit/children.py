"""Python that runs beside a test in a process of its own, until the test is through with it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_WAIT_SECONDS = 20


@contextmanager
def child(code: str, *words: str, cwd: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run some code, with `words` on its command line; what it has and holds it keeps until the block is left."""
    script = f"import sys\n{code}\nprint('up', flush=True)\nsys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=cwd,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
    finally:
        process.communicate(timeout=_WAIT_SECONDS)


def run_unmeasured(code: str, *words: str, timeout_seconds: float = 120) -> None:
    """Run some code that signals interrupt anywhere, with `words` on its command line; it has to succeed.

    What measures the tests takes locks of its own, and would hold one for ever if a signal's handler raised just then.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr
