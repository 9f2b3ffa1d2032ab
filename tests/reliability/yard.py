"""A place to run `umldisk build` in, with everything around it watched.

    yard/tmp/      TMPDIR of the build
    yard/canary    a file that no build may touch
    yard/site/     the site, with guests/canary in it

Each process that belongs to a build carries the yard's mark in its environment, so that one which is left over is
found, whoever else is building on this machine.
"""

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from uuid import uuid4

from tests.reliability.arguments import ERROR
from umldisk.build.disks import read_inode_numbers
from umldisk.config.site import Site
from umldisk.ops.check_build import check_build

Snapshot = dict[str, tuple[int, ...]]
Completed = subprocess.CompletedProcess[str]

CHECKOUT = Path(__file__).parents[2]
USER_ID = 61_234
_MARK = "UMLDISK_TEST_YARD"
_LOCK = ".lock"

# All is imported before the rights are given up: checkout and interpreter may be readable by root alone.
_AS_USER = f"""
import bz2, encodings.idna, grp, importlib, lzma, os, pkgutil, pwd, sys, tempfile, tomllib, zlib, zstandard
import umldisk
for module in pkgutil.walk_packages(umldisk.__path__, "umldisk."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
os.setgroups([])
os.setresgid({USER_ID}, {USER_ID}, {USER_ID})
os.setresuid({USER_ID}, {USER_ID}, {USER_ID})
sys.exit(importlib.import_module("umldisk.cli.main").main(sys.argv[1:]))
"""

_STOPPING_AT = """
import os, signal, sys
def stop(event, arguments, wanted=os.fsencode(sys.argv.pop(1))):
    if event == "open" and arguments[0] == wanted:
        os.kill(os.getpid(), signal.SIGSTOP)
sys.addaudithook(stop)
from umldisk.cli.main import main
sys.exit(main())
"""


@dataclass
class Yard:
    """A fresh place below `top`, which must be empty; `environment` is that of the builds."""

    top: Path
    environment: dict[str, str]
    mark: str = field(default_factory=lambda: uuid4().hex)

    def __post_init__(self) -> None:
        for directory in (self.temporary, self.guest("canary")):
            directory.mkdir(parents=True)
        for canary in (self.top / "canary", self.guest("canary") / "root_fs"):
            canary.write_text("untouched")
        self.environment = {
            **self.environment,
            "PYTHONPATH": str(CHECKOUT),
            "TMPDIR": str(self.temporary),
            _MARK: self.mark,
        }

    @property
    def site(self) -> Path:
        """The site."""
        return self.top / "site"

    @property
    def temporary(self) -> Path:
        """What TMPDIR names."""
        return self.top / "tmp"

    def guest(self, name: str) -> Path:
        """Return the directory of a guest."""
        return self.site / "guests" / name

    def argv(self, *words: str | Path, site: str | Path | None = None, as_user: bool = False) -> list[str]:
        """Return the command that builds; `as_user` takes root."""
        python = ["-c", _AS_USER] if as_user else ["-m", "umldisk"]
        return [sys.executable, *python, "--site", str(site or self.site), "build", *map(str, words)]

    def start_until(self, name: str, *words: str | Path) -> subprocess.Popen[str]:
        """Start a build and wait until it has stopped by SIGSTOP where it opens a file of its base."""
        python, _dash, _module, *rest = self.argv(*words)
        building = self._started([python, "-c", _STOPPING_AT, name, *rest], {})
        os.waitid(os.P_PID, building.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return building

    def start(self, *words: str | Path, **environment: str) -> subprocess.Popen[str]:
        """Start a build in a session of its own and do not wait for it."""
        return self._started(self.argv(*words), environment)

    def _started(self, argv: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def build(
        self,
        *words: str | Path,
        site: str | Path | None = None,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        setup: Callable[[], None] | None = None,
        as_user: bool = False,
        **environment: str,
    ) -> Completed:
        """Run a build to its end, which leaves no process, mount or loop device; `setup` runs in the child."""
        done = subprocess.run(
            self.argv(*words, site=site, as_user=as_user),
            env={**self.environment, **environment},
            cwd=self.top,
            stdin=stdin,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
            timeout=120,
            preexec_fn=setup,
        )
        assert self.processes() == []
        assert self.kernel_objects() == []
        return done

    def refused(self, code: int, says: str, *words: str | Path, guest: str = "x", **options: object) -> str:
        """Run a build that has to be refused in one line and to leave everything as it was; return what it said."""
        before = self.snapshot(without=guest)
        own = self.snapshot(self.guest(guest))
        done = self.build(*words, guest, **options)  # type: ignore[arg-type]
        assert done.returncode == code, done.stderr or done.stdout
        assert ERROR.fullmatch(done.stderr), done.stderr
        assert re.search(says, done.stderr), done.stderr
        assert done.stdout == ""
        assert self.snapshot(without=guest) == before
        assert self.snapshot(self.guest(guest)) == own
        return done.stderr

    def built(self, *words: str | Path, guest: str = "x", **options: object) -> set[str]:
        """Run a build that has to succeed and to write nowhere but in its guest; return the paths on the root disk."""
        before = self.snapshot(without=guest)
        done = self.build("--force", *words, guest, **options)  # type: ignore[arg-type]
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert self.snapshot(without=guest) == before
        self.require_whole(guest)
        return set(read_inode_numbers(str(self.guest(guest) / "root_fs")))

    def require_whole(self, guest: str = "x") -> None:
        """Assert that the guest has all its disks, just as they were built, and nothing besides."""
        assert check_build(Site(str(self.site)), guest).same
        assert not [name for name in os.listdir(self.guest(guest)) if name.startswith(".") and name != _LOCK]

    def snapshot(self, directory: Path | None = None, *, without: str | None = None) -> Snapshot:
        """Return all that is below a directory, by default the yard; lock files and the guest `without` left out."""
        found = {}
        left_out = str(self.guest(without)) if without is not None else None
        for place, directories, files in os.walk(directory or self.top):
            directories[:] = [name for name in directories if os.path.join(place, name) != left_out]
            for name in (*directories, *files):
                path = os.path.join(place, name)
                if name != _LOCK and path not in (left_out, str(self.site / "guests")):
                    found[path] = _fingerprint(os.lstat(path))
        return found

    def processes(self) -> list[int]:
        """Return the processes of builds here that live."""
        wanted = f"{_MARK}={self.mark}".encode()
        return [pid for pid in _numbers("/proc") if wanted in _read(f"/proc/{pid}/environ")]

    def kill_left_over(self) -> None:
        """End what `processes` finds."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)

    def kernel_objects(self) -> list[str]:
        """Return mounts and loop devices that have to do with the yard."""
        texts = [Path("/proc/self/mountinfo"), *Path("/sys/block").glob("loop*/loop/backing_file")]
        lines = [line for text in texts for line in _read(text).decode(errors="replace").splitlines()]
        return [line for line in lines if str(self.top) in line]


def _fingerprint(status: os.stat_result) -> tuple[int, ...]:
    if stat.S_ISDIR(status.st_mode):
        return status.st_mode, status.st_ino
    return status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, status.st_nlink


def _numbers(directory: str) -> Sequence[int]:
    return [int(name) for name in os.listdir(directory) if name.isdecimal()]


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
