"""The one place that runs other programs.

A program is found before it runs, gets no terminal and a fixed locale, and is described by an argv that its caller
builds as pure data. A failure carries the program's own last words. Nothing here goes through a shell.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from umldisk.errors import NoInputError, StorageError, printable

_SYSTEM_DIRECTORIES = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where Debian keeps mke2fs and its like, which is not on an ordinary user's PATH."""


@dataclass(frozen=True, slots=True)
class Completed:
    """What a finished program left: its exit status and what it wrote."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes


def find_program(name: str, *, package: str | None = None) -> str:
    """Return the absolute path of program `name`; `package` is the Debian package named in the hint.

    Raises NoInputError when it is not installed.
    """
    search = os.environ.get("PATH", os.defpath) + ":" + _SYSTEM_DIRECTORIES
    found = shutil.which(name, path=search)
    if found is None:
        hint = f"apt-get install {package}" if package else None
        raise NoInputError(f"the program {name} is not installed", hint=hint)
    return found


def run(
    argv: Sequence[str],
    *,
    package: str | None = None,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    accepted: Sequence[int] = (0,),
) -> Completed:
    """Run `argv` to its end and return what it wrote.

    `environment` is added to a copy of ours with the C locale. An exit status that is not in `accepted` raises
    StorageError with the last line of the program's stderr.
    """
    program = find_program(argv[0], package=package)
    finished = subprocess.run(
        [program, *argv[1:]],
        input=stdin,
        capture_output=True,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C", **(environment or {})},
        check=False,
    )
    completed = Completed(tuple(argv), finished.returncode, finished.stdout, finished.stderr)
    if completed.status not in accepted:
        raise StorageError(f"{argv[0]} failed with status {completed.status}: {_last_words(completed)}")
    return completed


def _last_words(completed: Completed) -> str:
    lines = (completed.stderr or completed.stdout).decode(errors="replace").strip().splitlines()
    return printable(lines[-1]) if lines else "it said nothing"
