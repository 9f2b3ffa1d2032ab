"""Root in a guest that wants out: what it reaches in the jail, and what it reaches without."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.as_user import USER_ID
from tests.kit.guest import Guest, GuestError
from tests.kit.jailed import TEMP_BYTES, FreeGuest, HostTree, JailedGuest, Place, built_place
from tests.kit.peers import needs

pytestmark = [
    needs("linux", "setarch", "bwrap", "mke2fs", "debugfs", "busybox", "root"),
    pytest.mark.real,
    pytest.mark.guest,
    pytest.mark.slow,
]

_UP = "/.." * 16
_SECRET = "what the host keeps to itself"


@pytest.fixture(params=["root", "user"], scope="module")
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with built_place(0 if request.param == "root" else USER_ID) as place:
        place.secret.write_text(f"{_SECRET}\n")
        place.secret.chmod(0o644)
        yield place


def _read_through(guest: Guest, place: Place) -> dict[str, str]:
    """Let the guest mount hostfs in every way there is and look for the secret; return what it found by each."""
    above, below = str(place.secret.parent), f"/{place.secret.name}"
    ways = {
        "plain": ("", str(place.secret)),
        "root": ("-o /", str(place.secret)),
        "directory": (f"-o {above}", below),
        "upwards": (f"-o {_UP}{above}", below),
        "relative": (f"-o {_UP[1:]}{above}", below),
        "process": (f"-o /proc/self/root{above}", below),
        "working directory": (f"-o /proc/self/cwd{_UP}{above}", below),
        "symlink": (f"-o {guest.directory}/link", below),
    }
    guest.run(f"mount -t hostfs none /mnt; ln -s {above} /mnt{guest.directory}/link; umount /mnt")
    found = {
        name: guest.run(f"mount -t hostfs {option} none /mnt 2>&1; cat /mnt{path} 2>&1; umount /mnt 2>&1; true")
        for name, (option, path) in ways.items()
    }
    guest.run(f"mount -t hostfs none /mnt; rm /mnt{guest.directory}/link; umount /mnt")
    return found


def _fingerprint(path: str) -> tuple[int, ...]:
    status = os.stat(path)  # no write and no change of mode leaves the ctime as it was
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode


@dataclass
class Seen:
    """What /proc tells of a process."""

    status: dict[str, str]
    namespaces: dict[str, str]
    opened: list[str]
    environment: list[bytes]


def _look_at_all(guest: JailedGuest) -> list[Seen]:
    found = []
    for pid in guest.members:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            found.append(_look_at(Path(f"/proc/{pid}")))
    return found


def _look_at(process: Path) -> Seen:
    lines = (process / "status").read_text().splitlines()
    status = {name: value.strip() for name, _colon, value in (line.partition(":") for line in lines)}
    kinds = ("user", "pid", "net", "ipc", "uts", "mnt", "cgroup")
    namespaces = {kind: os.readlink(process / "ns" / kind) for kind in kinds}
    opened = [os.readlink(path) for path in (process / "fd").iterdir()]
    return Seen(status, namespaces, opened, (process / "environ").read_bytes().rstrip(b"\0").split(b"\0"))


def _assert_own(opened: str, place: Place) -> None:
    """Require that a process of the guest has nothing open but disks, its memory and nameless things."""
    nameless = re.fullmatch(r"(pipe|socket|anon_inode):.*|/tmp/\S+ \(deleted\)", opened)
    assert nameless or opened in {*place.disks, *place.backings}, opened


@pytest.fixture(scope="class")
def jailed(place: Place) -> Iterator[JailedGuest]:
    with JailedGuest(place) as guest:
        guest.wait_ready()
        yield guest


@pytest.fixture(scope="class")
def free(place: Place) -> Iterator[FreeGuest]:
    with FreeGuest(place) as guest:
        guest.wait_ready()
        yield guest


class TestInTheJail:
    """One guest in the jail, and its root."""

    def test_no_mount_of_hostfs_finds_the_host(self, jailed: JailedGuest, place: Place) -> None:
        found = _read_through(jailed, place)
        assert not [name for name, text in found.items() if _SECRET in text]

    def test_it_sees_its_own_files_and_no_others(self, jailed: JailedGuest, place: Place) -> None:
        listed = jailed.run("mount -t hostfs none /mnt; cd /mnt; find .; cd /; umount /mnt").splitlines()
        own = str(jailed.directory)
        files = {
            *(path for _file, path in place.kernel.libraries),
            *(place.kernel.path, f"{own}/test/mconsole", f"{own}/test/pid"),
            *(place.backings + place.disks),
        }
        directories = {str(above) for path in files for above in Path(path).parents}
        assert {line.removeprefix(".") or "/" for line in listed} == files | directories
        for directory in ("/proc", "/dev", "/sys", "/etc", "/root", "/home"):
            assert "No such file" in jailed.run(f"mount -t hostfs -o {directory} none /mnt 2>&1; ls /mnt/. 2>&1; true")

    def test_it_writes_to_its_own_files_and_no_others(self, jailed: JailedGuest, place: Place) -> None:
        kept = [*place.backings, place.kernel.path, *(path for path, _inside in place.kernel.libraries)]
        before = [_fingerprint(path) for path in kept]
        disks, own = place.guest.directory, Path(jailed.directory, "made")
        jailed.run("mount -t hostfs none /mnt")
        for path in ("/made", "/usr/made", "/usr/bin/made", "/lib64/made"):
            assert "Read-only file system" in jailed.run(f"echo x 2>&1 >/mnt{path}; true"), path
        for path in (*place.backings, place.kernel.path):
            jailed.run(f"chmod 777 /mnt{path}; echo x >>/mnt{path}; rm -f /mnt{path}; mv /mnt{path} /mnt/tmp; true")
        # Directories above the disks are below /tmp here, so they are the jail's own, and go with it.
        jailed.run(f"echo x >/mnt{disks}/made; echo x >/mnt{place.directory}/made; echo x >/mnt/tmp/umldisk-made")
        assert jailed.run(f"echo mine >/mnt{own}; cat /mnt{own}; umount /mnt") == "mine\n"
        assert (own.read_text(), own.stat().st_uid) == ("mine\n", place.uid)
        own.unlink()
        assert [_fingerprint(path) for path in kept] == before
        for path in (f"{disks}/made", f"{place.directory}/made", "/tmp/umldisk-made", "/made", "/usr/bin/made"):
            assert not os.path.lexists(path)

    def test_it_makes_no_way_to_rights_or_devices(self, jailed: JailedGuest) -> None:
        """A device of the host's disk and a setuid shell, made by root in the guest where its files are the host's."""
        jailed.run("mount -t hostfs none /mnt; cp /bin/busybox /mnt/tmp/shell; chmod 4755 /mnt/tmp/shell")
        jailed.run("mknod /mnt/tmp/disk b 254 0 2>/dev/null; true")
        temp = f"/proc/{jailed.init}/root/tmp"
        options = next(fields[5] for fields in _mounts(jailed.init) if fields[4] == "/tmp")
        assert {"nosuid", "nodev"} <= set(options.split(","))
        assert "disk" not in os.listdir(temp)
        jailed.run("rm /mnt/tmp/shell; umount /mnt")

    def test_no_process_has_a_right_or_sees_another(self, jailed: JailedGuest, place: Place) -> None:
        seen = _look_at_all(jailed)
        assert len(seen) >= 3  # the init, the kernel, and processes of the guest
        for process in seen:
            status = process.status
            assert {status[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {""}
            assert (status["NoNewPrivs"], status["Uid"].split()) == ("1", [str(place.uid)] * 4)
            for kind, namespace in process.namespaces.items():
                assert namespace != os.readlink(f"/proc/self/ns/{kind}")
            for opened in process.opened:
                _assert_own(opened, place)

    def test_it_learns_nothing_of_the_host(self, jailed: JailedGuest) -> None:
        assert Path(f"/proc/{jailed.init}/net/dev").read_text().count(":") == 1  # lo
        for process in _look_at_all(jailed):
            if process.status["Name"] != "bwrap":
                assert sorted(process.environment) == [b"PWD=/", b"TMPDIR=/tmp"]
        # UML shows the host's uname(2) there, and would show its processor's flags, had it a /proc/cpuinfo.
        about = jailed.run("cat /proc/cpuinfo")
        assert f"host\t\t: Linux guest {os.uname().release}" in about


class TestWithoutTheJail:
    """The same guest and the same tries: each of them succeeds, so that they could have failed above."""

    def test_every_mount_of_hostfs_finds_the_host(self, free: FreeGuest, place: Place) -> None:
        found = _read_through(free, place)
        assert not [name for name, text in found.items() if _SECRET not in text]

    def test_it_sees_the_host_and_its_processes(self, free: FreeGuest) -> None:
        seen = free.run("mount -t hostfs none /mnt; cat /mnt/etc/passwd; ls /mnt/proc; umount /mnt")
        assert Path("/etc/passwd").read_text() in seen
        assert str(os.getpid()) in seen.split()
        assert f"Linux {os.uname().nodename} " in free.run("cat /proc/cpuinfo")

    def test_it_writes_to_the_host_as_its_user(self, free: FreeGuest, place: Place) -> None:
        made = place.secret.parent / "made"
        free.run(f"mount -t hostfs none /mnt; echo x >/mnt{made}; umount /mnt")
        assert made.stat().st_uid == place.uid

    def test_it_takes_more_than_the_bound(self, free: FreeGuest, place: Place) -> None:
        fill = place.secret.parent / "fill"
        count = (TEMP_BYTES >> 20) + 1
        free.run(
            f"mount -t hostfs none /mnt; dd if=/dev/zero of=/mnt{fill} bs=1M count={count}; umount /mnt", timeout=120
        )
        assert fill.stat().st_size > TEMP_BYTES
        fill.unlink()


def _mounts(pid: int) -> list[list[str]]:
    return [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]


def test_what_it_can_write_to_memory_is_bounded(place: Place) -> None:
    with JailedGuest(place) as guest:
        guest.wait_ready()
        mounts = _mounts(guest.init)
        tmpfs = {fields[4]: fields[5].split(",")[0] for fields in mounts if fields[fields.index("-") + 1] == "tmpfs"}
        assert tmpfs == {"/": "ro", "/tmp": "rw"}
        guest.run("mount -t hostfs none /mnt")
        temp = os.open(f"/proc/{guest.init}/root/tmp", os.O_RDONLY | os.O_DIRECTORY)
        try:
            guest.send("dd if=/dev/zero of=/mnt/tmp/fill bs=64k; echo x >/mnt/tmp/more\n")
            # Either dd is told, or the guest asks for one more page of its memory first and ends, which frees that.
            try:
                guest.wait_for("No space left on device")
                free_bytes = 64 << 10
            except GuestError:
                assert guest.wait_exit() != 0
                free_bytes = TEMP_BYTES
            held = os.fstatvfs(temp)
        finally:
            os.close(temp)
    assert held.f_blocks * held.f_frsize == TEMP_BYTES
    assert held.f_bfree * held.f_frsize < free_bytes


@pytest.mark.parametrize("jailed", [True, False])
def test_the_argument_hostfs_neither_holds_nor_opens_the_jail(place: Place, jailed: bool) -> None:
    guest = (JailedGuest if jailed else FreeGuest)(place, f"hostfs={place.guest.directory}")
    look = f"mount -t hostfs -o {_UP}{place.secret.parent} none /mnt; cat /mnt/secret 2>&1; umount /mnt; true"
    with guest:
        assert (_SECRET in guest.run(look)) is not jailed


@pytest.mark.parametrize("jailed", [True, False])
def test_the_hosts_tree_as_root_file_system_boots_only_without_the_jail(place: Place, jailed: bool) -> None:
    script = f"cat {place.secret}"
    with HostTree(script, place, jailed=jailed) as guest:
        if not jailed:
            assert guest.finish().output == f"{_SECRET}\n"
            return
        guest.wait_for("Kernel panic - not syncing")
        assert _SECRET not in guest.console
