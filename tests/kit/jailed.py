"""Guests whose disks belong to somebody and whose kernel runs in the jail, or as it is, for comparison."""

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.kit.guest import Guest, ScriptGuest
from umldisk.config.guest import Guest as GuestConfig
from umldisk.config.site import Site
from umldisk.cow.creating import create
from umldisk.guest.jail import Jail, jail_argv, temp_bytes_for
from umldisk.guest.kernel import Kernel, find_kernel
from umldisk.image.drives import ubd_argument
from umldisk.ops.provision import build_guest

_MEMORY_BYTES = 64 << 20
TEMP_BYTES = temp_bytes_for(_MEMORY_BYTES)
_ARGUMENTS = (
    "mem=64M",
    "con=null",
    "con0=fd:0,fd:1",
    "ssl=null",
    "root=/dev/ubda",
    "ro",
    "initcall_blacklist=raid6_select_algo",
)


@dataclass
class Place:
    """A built guest below /tmp whose disks belong to `uid`, and a file of the host's that all may read."""

    directory: Path
    guest: GuestConfig
    uid: int
    kernel: Kernel = field(default_factory=lambda: find_kernel("linux"))

    @property
    def secret(self) -> Path:
        return self.directory / "open" / "secret"

    @property
    def backings(self) -> list[str]:
        return [self.guest.base_path(drive) for drive in self.guest.drives if drive.copy_on_write]

    @property
    def disks(self) -> list[str]:
        return [self.guest.cow_path(drive) or self.guest.base_path(drive) for drive in self.guest.drives]

    def arguments(self) -> list[str]:
        return [*_ARGUMENTS, *(ubd_argument(drive, self.guest.directory) for drive in self.guest.drives)]


class FreeGuest(Guest):
    """A guest whose kernel runs as the disks' owner, as it is."""

    def __init__(self, place: Place, *arguments: str) -> None:
        self.place = place
        super().__init__([*place.arguments(), *arguments], uid=place.uid)

    def _prepare(self) -> None:
        self.argv = ["setarch", "-R", self.place.kernel.path, *self.argv]


class JailedGuest(FreeGuest):
    """The same kernel in the jail. `init` is the init of its process namespace."""

    def _prepare(self) -> None:
        self._info = self.place.directory / "open" / f"info-{self.directory.name}"
        self._info.touch()
        self._info.chmod(0o666)
        place = self.place
        jail = Jail(place.kernel, tuple(place.backings), tuple(place.disks), str(self.directory), TEMP_BYTES, 9)
        # A shell opens descriptor 9, on which bubblewrap tells who the init is.
        shell = ["sh", "-c", 'exec "$@" 9>"$0"', str(self._info)]
        self.argv = [*shell, "setarch", "-R", *jail_argv(jail), place.kernel.path, *self.argv]

    @property
    def init(self) -> int:
        return int(json.loads(self._info.read_text())["child-pid"])

    @property
    def members(self) -> list[int]:
        """All processes in the jail, by the host's numbers."""
        namespace = os.readlink(f"/proc/{self.init}/ns/pid")
        found = []
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{name}/ns/pid") == namespace:
                    found.append(int(name))
        return found

    def kill(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(self.init, signal.SIGKILL)
        super().kill()


@contextlib.contextmanager
def built_place(uid: int) -> Iterator[Place]:
    """Build a guest with COW files, and give them and its plain disks to `uid`."""
    # A path below /tmp, where the jail has a directory of its own, and short: the kernel is told eight of them.
    with tempfile.TemporaryDirectory(prefix="umldisk-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        build_guest(Site(name), "g")
        guest = Site(name).guest("g")
        _hand_over(guest, uid)
        (directory / "open").mkdir()
        (directory / "open").chmod(0o777)
        yield Place(directory, guest, uid)


def _hand_over(guest: GuestConfig, uid: int) -> None:
    """Give the user the files that a guest writes, and its group the right to read the others, which stay root's."""
    os.chmod(os.path.dirname(guest.directory), 0o711)
    os.chown(guest.directory, uid, uid)
    for drive in guest.drives:
        base, cow = guest.base_path(drive), guest.cow_path(drive)
        if cow is not None:
            create(cow, base)
            os.chown(base, 0, uid)
            os.chmod(base, 0o440)
        os.chown(cow or base, uid, uid)
        os.chmod(cow or base, 0o600)


class HostTree(ScriptGuest):
    """The guest of `run_script`, in the jail or not."""

    def __init__(self, script: str, place: Place, *, jailed: bool) -> None:
        super().__init__(script)
        self._uid, self._place, self._jailed = place.uid, place, jailed

    def _prepare(self) -> None:
        super()._prepare()
        if self._jailed:
            place = self._place
            jail = Jail(place.kernel, (), (), str(self.directory), TEMP_BYTES, 9)
            words = self.argv[self.argv.index("linux") + 1 :]
            shell = ["sh", "-c", 'exec "$@" 9>/dev/null', "sh"]
            self.argv = [*shell, "setarch", "-R", *jail_argv(jail), place.kernel.path, *words]
