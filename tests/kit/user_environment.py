"""An ordinary user with an account and a home, who runs umldisk as people do: nothing about it is root's.

When the tests are root, Python and the checkout may lie below a directory that is root's alone. So every command of the
user gets a view of the file system of its own, a private mount namespace:

    /root                             an empty directory that everybody may pass through
    /root/.../python3.11              bound there read-only, at its own path
    everything outside of /root       as it is

Only closed directories are covered, and nothing is when all can be reached. Paths stay what they are, so that
whatever the command starts by its own interpreter's path can be started. What a command leaves running, such as a
guest, keeps its view; the next command has another one, which looks the same.

When the tests are an ordinary user's already, that is the user, and no account is made.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import importlib.util
import os
import pwd
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.kit.sites import WAIT_SECONDS, BuiltSite, Said
from umldisk.system.pids import ProcessId, end_all

_CHECKOUT = Path(__file__).resolve().parents[2]
_PYTHON = Path(sys.executable).resolve()  # of a virtual environment the one that it was made from
_LIBRARIES = ("click", "construct", "tqdm", "zstandard")
_ADMIN_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_USER_PATH = "/usr/local/bin:/usr/bin:/bin"
_ACCOUNT_TESTS = _CHECKOUT / "tests" / "test_accounts.py"


@dataclass(frozen=True)
class OrdinaryUser:
    """A user; `enter` is what stands before its commands, `is_made` that the account was made for the test."""

    name: str
    uid: int
    gid: int
    home: Path
    enter: tuple[str, ...]
    environment: dict[str, str]
    is_made: bool

    def run(self, *command: str | Path, stdin: str = "") -> Said:
        """Run a program as the user, in its home."""
        done = subprocess.run(
            [*self.enter, *map(str, command)],
            cwd=self.home,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def umldisk(self, *words: str | Path) -> Said:
        """Run umldisk as the user."""
        return self.run(_PYTHON, "-P", "-m", "umldisk", *words)

    def write(self, path: Path, text: str) -> None:
        """Write a file as the user, with the directories above it."""
        said = self.run("sh", "-c", 'mkdir -p "${1%/*}" && cat >"$1"', "sh", path, stdin=text)
        assert said.code == 0, said

    def processes(self) -> list[ProcessId]:
        """Return the living processes of an account that was made."""
        assert self.is_made
        found = (ProcessId.of(int(name)) for name in os.listdir("/proc") if name.isdecimal() and self._is_of(name))
        return [process for process in found if process is not None]

    def _is_of(self, pid: str) -> bool:
        try:
            lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
        except OSError:
            return False
        return next(line for line in lines if line.startswith("Uid:")).split()[1] == str(self.uid)

    def end_all(self) -> None:
        """Kill whatever of a made account still runs, and what that has started meanwhile."""
        deadline = time.monotonic() + WAIT_SECONDS
        while left := self.processes():
            assert time.monotonic() < deadline, left
            end_all(left, signal.SIGKILL, timeout_seconds=WAIT_SECONDS)


@dataclass(frozen=True)
class UserSite(BuiltSite):
    """The site that umldisk finds for the user by itself."""

    user: OrdinaryUser = field(kw_only=True)

    def __call__(self, *words: str | Path) -> Said:
        """Run umldisk as the user."""
        return self.user.umldisk(*words)


@contextlib.contextmanager
def ordinary_user(*, data_home: str) -> Iterator[UserSite]:
    """Give a user whose XDG_DATA_HOME is `data_home` below its home, and end and remove all of it afterwards."""
    with tempfile.TemporaryDirectory(prefix="umldisk-", dir="/tmp") as directory:
        os.chmod(directory, 0o711)
        with _made(Path(directory, "home")) if os.geteuid() == 0 else _ourselves(Path(directory)) as user:
            user.environment["XDG_DATA_HOME"] = str(user.home / data_home)
            site = UserSite(user.home / data_home / "umldisk", user=user)
            try:
                yield site
            finally:
                site.end()


@contextlib.contextmanager
def _ourselves(home: Path) -> Iterator[OrdinaryUser]:
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": _python_path()}
    environment.pop("UMLDISK_SITE", None)
    name = pwd.getpwuid(os.geteuid()).pw_name
    yield OrdinaryUser(name, os.geteuid(), os.getegid(), home, (), environment, is_made=False)
    with contextlib.suppress(OSError):  # not made, or not ours alone
        os.rmdir(f"/tmp/umldisk-{os.geteuid()}")


@contextlib.contextmanager
def _made(home: Path) -> Iterator[OrdinaryUser]:
    name = f"umldisk-{secrets.token_hex(5)}"
    try:
        with accounts_to_ourselves():
            admin("useradd", "--create-home", f"--home-dir={home}", "--user-group", "--shell=/bin/sh", name)
        account = pwd.getpwnam(name)
        environment = {
            "HOME": str(home),
            "USER": name,
            "LOGNAME": name,
            "PATH": _USER_PATH,
            "LANG": "C.UTF-8",
            "PYTHONPATH": _python_path(),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        enter = _entering(name, account.pw_uid, account.pw_gid)
        user = OrdinaryUser(name, account.pw_uid, account.pw_gid, home, enter, environment, is_made=True)
        try:
            yield user
        finally:
            user.end_all()
            shutil.rmtree(f"/tmp/umldisk-{user.uid}", ignore_errors=True)
    finally:
        with accounts_to_ourselves():
            remove_account(name)


@contextlib.contextmanager
def accounts_to_ourselves() -> Iterator[None]:
    """Take turns with all tests that make accounts: useradd does not wait for another one to end."""
    with _ACCOUNT_TESTS.open("rb") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield


def remove_account(name: str) -> None:
    """Remove a user and the group of its name, where there are any."""
    if name in {entry.pw_name for entry in pwd.getpwall()}:
        admin("userdel", name)
    if name in {entry.gr_name for entry in grp.getgrall()}:
        admin("groupdel", name)


def admin(*command: str) -> None:
    """Run a program of an administrator."""
    program = shutil.which(command[0], path=_ADMIN_PATH)
    assert program is not None
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)


def _library_directories() -> list[Path]:
    found = [importlib.util.find_spec(name) for name in _LIBRARIES]
    return list(dict.fromkeys(Path(str(spec.origin)).resolve().parents[1] for spec in found if spec))


def _python_path() -> str:
    return os.pathsep.join(map(str, [_CHECKOUT, *_library_directories()]))


def _entering(name: str, uid: int, gid: int) -> tuple[str, ...]:
    """Return what makes a command the user's, as a login would: no rights, its own groups, all that it has to read."""
    become = ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--init-groups", "--inh-caps=-all")
    needed = [Path(sys.base_prefix).resolve(), *_library_directories(), _CHECKOUT / "umldisk"]
    hidden = [path for path in dict.fromkeys(needed) if _closed_above(path)]
    if not hidden:
        return become
    return ("unshare", "--mount", "--propagation=private", "sh", "-c", _opened(hidden), "sh", *become)


def _closed_above(path: Path) -> Path | None:
    """Return the topmost directory above `path` that not everybody may pass through."""
    return next((above for above in reversed(path.parents) if not above.stat().st_mode & 0o001), None)


def _opened(hidden: Sequence[Path]) -> str:
    """Return the script that covers what is closed, puts back what is needed, and goes on with its arguments."""
    closed = dict.fromkeys(above for path in hidden if (above := _closed_above(path)))
    numbered = [(shlex.quote(str(path)), f"/mnt/{number}") for number, path in enumerate(hidden)]
    lines = ["set -e", "umask 022", "mount -t tmpfs -o mode=755 umldisk-test /mnt"]
    for path, kept in numbered:
        lines += [f"mkdir {kept}", f"mount --bind {path} {kept}", f"mount -o remount,bind,ro {kept}"]
    lines += [f"mount -t tmpfs -o mode=755 umldisk-test {shlex.quote(str(above))}" for above in closed]
    for path, kept in numbered:
        lines += [f"mkdir -p {path}", f"mount --move {kept} {path}"]
    lines += ["umount /mnt", 'exec "$@"']
    return "\n".join(lines)
