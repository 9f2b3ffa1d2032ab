"""The jail's words, and what a program sees that bubblewrap runs by them."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.as_user import USER_ID
from tests.kit.peers import needs
from tests.kit.sites import until
from umldisk.errors import NoInputError
from umldisk.guest.jail import Jail, find_bubblewrap, jail_argv, require_bubblewrap, temp_bytes_for
from umldisk.guest.kernel import Kernel

_KERNEL = Kernel("/usr/bin/linux.uml", (("/usr/lib/libc.so.6", "/lib/libc.so.6"),))
_JAIL = Jail(_KERNEL, ("/g/root_fs",), ("/g/root_cow", "/g/swap_fs"), "/run/g/uml", 65 << 20, 62, lock_fd=63)

_ARGV = """
bwrap --unshare-all --unshare-user --disable-userns --new-session --cap-drop ALL --hostname guest
--clearenv --setenv TMPDIR /tmp
--size 68157440 --tmpfs /tmp
--bind /run/g/uml /run/g/uml
--ro-bind /usr/lib/libc.so.6 /lib/libc.so.6
--ro-bind /usr/bin/linux.uml /usr/bin/linux.uml
--ro-bind /g/root_fs /g/root_fs
--bind /g/root_cow /g/root_cow
--bind /g/swap_fs /g/swap_fs
--remount-ro /
--chdir / --info-fd 62 --sync-fd 63 --
"""


def test_the_words() -> None:
    assert list(jail_argv(_JAIL)) == _ARGV.split()


def test_without_user_namespaces_and_without_a_lock() -> None:
    fewer = ["--unshare-user", "--disable-userns", "--sync-fd", "63"]
    expected = [word for word in _ARGV.split() if word not in fewer]
    assert list(jail_argv(replace(_JAIL, own_users=False, lock_fd=None))) == expected


_PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).map("/".__add__)


@given(st.lists(_PATHS), st.lists(_PATHS), _PATHS)
def test_each_file_is_bound_once_where_it_is_and_nothing_else(
    read_only: list[str], writable: list[str], uml: str
) -> None:
    argv = jail_argv(Jail(_KERNEL, tuple(read_only), tuple(writable), uml, 4096, 3))
    words = argv[argv.index("/tmp", argv.index("--tmpfs")) + 1 : argv.index("--chdir")]
    assert words[-2:] == ("--remount-ro", "/")
    bound = [words[i : i + 3] for i in range(0, len(words) - 2, 3)]
    own = [("--ro-bind", *pair) for pair in (*_KERNEL.libraries, (_KERNEL.path, _KERNEL.path))]
    asked = [("--ro-bind", path, path) for path in read_only] + [("--bind", path, path) for path in writable]
    assert bound[0] == ("--bind", uml, uml)
    assert set(bound[1:]) == {*own, *asked}
    assert len(set(bound[1:])) == len(bound[1:])


def test_the_temp_directory_is_larger_than_the_memory() -> None:
    assert temp_bytes_for(64 << 20) == (64 << 20) + (1 << 20)


# -- what bubblewrap makes of them ------------------------------------------------------------------------------------

_TEMP_BYTES = 1 << 20
_COMMANDS = "cat find hostname id kill mount rm sleep stat unshare"
_PEERS = needs("bwrap", "busybox", "root")


@pytest.fixture(params=["root", "user"])
def uid(request: pytest.FixtureRequest) -> int:
    return 0 if request.param == "root" else USER_ID


@pytest.fixture
def place(uid: int) -> Iterator[Path]:
    """A directory below /tmp, the user's own but for a backing file, root's, that the user's group may even write."""
    with tempfile.TemporaryDirectory(prefix="umldisk-") as name:
        path = Path(name)
        for made in (path / "guest", path / "uml"):
            made.mkdir(0o700)
        for file, mode in (("base", 0o660), ("cow", 0o600), ("secret", 0o644)):
            (path / "guest" / file).write_text(f"{file}\n")
            (path / "guest" / file).chmod(mode)
        for owned in (path, *path.iterdir(), path / "guest/cow"):
            os.chown(owned, uid, uid)
        os.chown(path / "guest/base", 0, uid)
        yield path


@dataclass(frozen=True)
class Jailed:
    """A shell in a jail: the process that we started, and the init of its process namespace."""

    process: subprocess.Popen[str]
    init: int

    def begin(self, command: str) -> None:
        """Give the shell a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def run(self, command: str) -> str:
        """Run a command of busybox's shell and return what it wrote, its errors too."""
        assert self.process.stdout is not None
        self.begin(f"{{ {command}\n}} 2>&1; echo; echo end")
        said = ""
        while not said.endswith("\nend\n"):
            line = self.process.stdout.readline()
            assert line, f"the jail ended: {said}"
            said += line
        return said.removesuffix("\nend\n")

    @property
    def shell(self) -> int:
        """The host's number of the shell."""
        return _children(self.init)[0]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _busybox() -> str:
    found = shutil.which("busybox")
    assert found is not None
    return os.path.realpath(found)


@contextlib.contextmanager
def _jailed(place: Path, uid: int, *, directory: Path | None = None) -> Iterator[Jailed]:
    guest = (directory or place) / "guest"
    kernel = Kernel(_busybox())
    info, told = os.pipe()
    lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    jail = Jail(kernel, (f"{guest}/base",), (f"{guest}/cow",), f"{place}/uml", _TEMP_BYTES, told, lock_fd=lock)
    process = subprocess.Popen(
        [*jail_argv(jail), kernel.path, "sh"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        user=uid,
        group=uid,
        extra_groups=[],
        pass_fds=(told, lock),
        start_new_session=True,
    )
    os.close(told)
    os.close(lock)
    with process, open(info) as answer:
        init = json.load(answer)["child-pid"]
        jailed = Jailed(process, init)
        try:
            # Without /proc busybox does not find itself when its shell calls for an applet.
            jailed.run(f'for name in {_COMMANDS}; do eval "$name() {{ {kernel.path} $name \\"\\$@\\"; }}"; done')
            yield jailed
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(init, signal.SIGKILL)


@_PEERS
def test_it_sees_its_own_files_only(place: Path, uid: int) -> None:
    with _jailed(place, uid) as jailed:
        seen = set(jailed.run("find /").split())
        files = {_busybox(), f"{place}/guest/base", f"{place}/guest/cow", f"{place}/uml"}
        assert seen == files | {str(above) for file in files for above in Path(file).parents} | {"/tmp"}
        assert jailed.run("cat /etc/passwd; cat /proc/version; cat ../../../../etc/passwd").count("No such file") == 3
        assert jailed.run("hostname; pwd").split() == ["guest", "/"]
        environment = Path(f"/proc/{jailed.shell}/environ").read_bytes()
        assert environment.rstrip(b"\0").split(b"\0") == [b"TMPDIR=/tmp", b"PWD=/"]


@_PEERS
def test_it_writes_its_own_files_only(place: Path, uid: int) -> None:
    with _jailed(place, uid) as jailed:
        assert jailed.run(f"echo more >>{place}/guest/cow && echo x >{place}/uml/made && echo x >/tmp/made") == ""
        assert "Read-only file system" in jailed.run(f"echo more >>{place}/guest/base")
        for path in ("/x", "/usr/x"):
            assert "Read-only file system" in jailed.run(f"echo >{path}")
        # Directories that the jail makes below /tmp are its own, not the host's.
        jailed.run(f"echo x >{place}/guest/secret; echo x >{place}/x; rm -f {place}/guest/base")
        assert jailed.run(f"cat {place}/guest/base") == "base\n"
    assert (place / "guest/cow").read_text() == "cow\nmore\n"
    assert (place / "guest/secret").read_text() == "secret\n"
    assert (place / "uml/made").stat().st_uid == uid
    assert not (place / "x").exists()
    assert not Path("/tmp/made").exists()


@_PEERS
def test_its_temp_directory_is_bounded(place: Path, uid: int) -> None:
    with _jailed(place, uid) as jailed:
        said = jailed.run(f"while cat {_busybox()}; do :; done >/tmp/full")
        assert "No space left on device" in said
        assert jailed.run("stat -c %s /tmp/full") == f"{_TEMP_BYTES}\n"


@_PEERS
def test_it_has_no_rights(place: Path, uid: int) -> None:
    with _jailed(place, uid) as jailed:
        assert jailed.run("id -u") == f"{uid}\n"
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{jailed.shell}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert {status[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {""}
        assert status["NoNewPrivs"] == "1"
        assert status["Uid"].split() == [str(uid)] * 4
        for kind in ("user", "pid", "net", "ipc", "uts", "mnt", "cgroup"):
            assert os.readlink(f"/proc/{jailed.shell}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
        assert "denied" in jailed.run("mount -t tmpfs none /tmp") or "permitted" in jailed.run(
            "mount -t tmpfs none /tmp"
        )
        assert jailed.run("unshare -U true && echo made") != "made\n"
        assert "No such process" in jailed.run(f"kill -0 {os.getpid()}")


@_PEERS
def test_the_lock_stays_with_the_init_and_out_of_the_kernel(place: Path, uid: int) -> None:
    with _jailed(place, uid) as jailed:
        lock = str(place / "lock")
        assert lock in _open_files(jailed.init)
        assert jailed.run("echo x") == "x\n"
        assert _open_files(jailed.shell) == [name for name in _open_files(jailed.shell) if name.startswith("pipe:")]


def _open_files(pid: int) -> list[str]:
    directory = f"/proc/{pid}/fd"
    return [os.readlink(f"{directory}/{fd}") for fd in os.listdir(directory)]


@_PEERS
def test_killing_the_init_ends_all(place: Path, uid: int) -> None:
    with _jailed(place, uid) as jailed:
        # Not in the background: for that the shell wants /dev/null, and complains at any time that there is none.
        jailed.begin("sleep 1000 | sleep 1000")
        until(lambda: len(_children(jailed.shell)) == 2)
        shell = os.pidfd_open(jailed.shell)
        try:
            os.kill(jailed.init, signal.SIGKILL)
            assert select.select([shell], [], [], 30)[0]
        finally:
            os.close(shell)
        assert jailed.process.wait(30) == 128 + signal.SIGKILL


@_PEERS
def test_a_path_through_a_symlink_is_there_as_it_was_given(place: Path, uid: int) -> None:
    with tempfile.TemporaryDirectory(prefix="umldisk-") as other:
        os.chmod(other, 0o711)
        given = Path(other, "site")
        given.symlink_to(place)
        with _jailed(place, uid, directory=given) as jailed:
            assert jailed.run(f"cat {given}/guest/base && echo more >>{given}/guest/cow") == "base\n"
            assert "No such file" in jailed.run(f"cat {place}/guest/base")
    assert (place / "guest/cow").read_text() == "cow\nmore\n"


@_PEERS
def test_without_the_jail_all_of_that_is_there(place: Path, uid: int) -> None:
    script = f"cat /etc/passwd {place}/guest/secret && echo x >{place}/x && cat /proc/$PPID/status"
    free = subprocess.run(
        [_busybox(), "sh", "-c", script], capture_output=True, text=True, user=uid, group=uid, check=True
    )
    assert "root:" in free.stdout
    assert "secret\n" in free.stdout
    assert f"Pid:\t{os.getpid()}\n" in free.stdout
    assert (place / "x").exists()


# -- bubblewrap itself ------------------------------------------------------------------------------------------------


def _peer(directory: Path, monkeypatch: pytest.MonkeyPatch, says: str | None) -> None:
    monkeypatch.setattr("umldisk.system.process._SYSTEM_DIRECTORIES", str(directory))
    monkeypatch.setenv("PATH", str(directory))
    if says is not None:
        (directory / "bwrap").write_text(f"#!/bin/sh\necho {says}\n")
        (directory / "bwrap").chmod(0o755)


def test_no_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _peer(tmp_path, monkeypatch, None)
    assert find_bubblewrap() is None
    with pytest.raises(NoInputError, match="bubblewrap, which jails guests, is not installed") as refused:
        require_bubblewrap()
    assert refused.value.hint == "apt-get install bubblewrap, or start without a jail: --no-jail"


@pytest.mark.parametrize("says", ["bubblewrap 0.7.1", "bubblewrap 0.6.99", "what?", ""])
def test_an_older_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    _peer(tmp_path, monkeypatch, says)
    with pytest.raises(NoInputError, match=r"too old .* expected 0\.8\.0") as refused:
        require_bubblewrap()
    assert "--no-jail" in str(refused.value.hint)


@pytest.mark.parametrize("says", ["bubblewrap 0.8.0", "bubblewrap 0.11.0", "bubblewrap 1.0.0"])
def test_a_bubblewrap_that_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    _peer(tmp_path, monkeypatch, says)
    assert require_bubblewrap() == find_bubblewrap() == str(tmp_path / "bwrap")
