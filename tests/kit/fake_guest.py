"""A stand-in for a running guest: processes that lock a disk, write to it, and obey an mconsole.

    mconsole process      answers datagrams as UML does; `stop` and `go` hold and release the writer
    writer process        UML's I/O thread: goes on writing for a while after `stop`, as fast as it can

What the writer writes shows whether a copy is of one moment. Write n puts n into sector n % RING and then into the
sector of the counter, each first as data and then in the bitmap. In any state between two writes, or in the middle of
one, the counter says c, and every other sector of the ring the last number up to c, or c + 1, that belongs there. A
copy that was made while the writer wrote says something else.

The file is started as a script with its orders as JSON; FakeGuest is what tests use.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from umldisk.guest.state import RunState

SECTOR = 512
RING = 4096
_MAGIC = 0xCAFEBABE
_HEAD = struct.Struct("=III")
_PATIENCE_SECONDS = 30.0


def numbers_of(ring: bytes) -> tuple[int, list[int]]:
    """Return the counter and the numbers of the ring, of a disk's bytes from the ring's start."""
    found = [struct.unpack_from("<Q", ring, SECTOR * index)[0] for index in range(RING + 1)]
    return found[RING], found[:RING]


def assert_one_moment(ring: bytes) -> int:
    """The bytes are what the disk showed at some moment; return the counter."""
    counter, numbers = numbers_of(ring)
    for index, number in enumerate(numbers):
        last = counter - (counter - index) % RING
        expected = {max(last, 0)} | ({counter + 1} if (counter + 1) % RING == index else set())
        assert number in expected, f"sector {index} says {number}, and the counter {counter}"
    return counter


class FakeGuest:
    """A guest over a COW file (or a plain disk when `data_offset` is 0), as a context manager.

    `ring_at` is the byte of the disk where it writes, a multiple of 4096. `silent` gives for a command how often it is
    not answered at first, `deaf` how often it is not obeyed either. `drain_seconds` is how long the writer goes on
    after `stop`.
    """

    def __init__(
        self,
        path: Path,
        backing: Path | None = None,
        *,
        ring_at: int,
        bitmap_offset: int = 0,
        data_offset: int = 0,
        drain_seconds: float = 0.0,
        silent: dict[str, int] | None = None,
        deaf: dict[str, int] | None = None,
    ) -> None:
        self.path, self.backing = path, backing
        self._temporary = tempfile.TemporaryDirectory(prefix="fake-", dir="/tmp")
        self.directory = Path(self._temporary.name)
        self._orders = {
            "directory": str(self.directory),
            "path": str(path),
            "backing": str(backing) if backing else None,
            "ring_at": ring_at,
            "bitmap_offset": bitmap_offset,
            "data_offset": data_offset,
            "drain_seconds": drain_seconds,
            "silent": silent or {},
            "deaf": deaf or {},
        }

    def __enter__(self) -> Self:
        (self.directory / "fake").mkdir()
        command = [sys.executable, "-I", "-S", __file__, json.dumps(self._orders)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._temporary.cleanup()

    @property
    def socket_path(self) -> Path:
        return self.directory / "fake" / "mconsole"

    def run_state(self, *disks: tuple[str, Path, Path | None], has_agent: bool = False) -> RunState:
        """Return what umldisk would know of it; disks are drive, file and backing file."""
        from tests.kit.runs import process_id, run_state
        from umldisk.guest.state import RunDisk

        process = process_id(self.process.pid)
        return run_state(
            "g",
            process,
            umid="fake",
            socket_directory=str(self.directory),
            supervisor=process,
            started_at=datetime.now(UTC),
            has_agent=has_agent,
            disks=tuple(
                RunDisk(name, number, str(path), str(backing) if backing else None)
                for number, (name, path, backing) in enumerate(disks)
            ),
        )

    def log(self) -> list[str]:
        """Return the commands that came, each with what became of it: `go`, `go refused`, `go unheard`."""
        return (self.directory / "log").read_text().splitlines()

    def obeyed(self) -> list[str]:
        """Return the commands that came and were obeyed."""
        return [line for line in self.log() if " refused" not in line and " unheard" not in line]

    def written(self) -> int:
        """Return how much was written so far."""
        return int.from_bytes((self.directory / "written").read_bytes()[:8], "little")

    def wait_writing(self) -> None:
        """Wait until it writes."""
        before = self.written()
        wait_until(lambda: self.written() > before + 3, "the guest does not write")

    def wait_obeyed(self, command: str, times: int = 1) -> None:
        """Wait until a command was obeyed so often."""
        wait_until(lambda: self.obeyed().count(command) >= times, f"{command} did not come: {self.log()}")

    def is_still(self) -> bool:
        """Whether nothing is written for some looks in a row."""
        before = self.written()
        time.sleep(0.02)
        return self.written() == before


def wait_until(condition: Any, complaint: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.005)


# -- the processes ----------------------------------------------------------------------------------------------------


@dataclass
class _Shared:
    """What both processes see: the count of writes, when to stop (monotonic ns, 0 for never), whether it is still."""

    memory: mmap.mmap

    def get(self, place: int) -> int:
        return int.from_bytes(self.memory[8 * place : 8 * place + 8], "little")

    def put(self, place: int, value: int) -> None:
        self.memory[8 * place : 8 * place + 8] = value.to_bytes(8, "little")


_WRITTEN, _STOP_AT = 0, 1


def _main(orders: dict[str, Any]) -> None:
    shared = _shared(orders["directory"])
    disk = os.open(orders["path"], os.O_RDWR)
    fcntl.lockf(disk, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if orders["backing"]:
        fcntl.lockf(os.open(orders["backing"], os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(f"{orders['directory']}/fake/mconsole")
    with open(f"{orders['directory']}/log", "a", buffering=1, encoding="utf-8") as log:
        parent = os.getpid()
        if os.fork() == 0:
            _write(disk, orders, shared, parent)
        os.write(1, b"ready\n")
        _Mconsole(server, log, shared, orders).serve()


def _shared(directory: str) -> _Shared:
    fd = os.open(f"{directory}/written", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 4096)
    return _Shared(mmap.mmap(fd, 4096))


def _write(disk: int, orders: dict[str, Any], shared: _Shared, parent: int) -> None:
    """Write until the end of days."""
    number = 0
    while os.getppid() == parent:
        stop_at = shared.get(_STOP_AT)
        if stop_at and time.monotonic_ns() >= stop_at:
            time.sleep(0.001)
            continue
        number += 1
        _put(disk, orders, number % RING, number)
        _put(disk, orders, RING, number)
        shared.put(_WRITTEN, number)
    os._exit(0)


def _put(disk: int, orders: dict[str, Any], index: int, number: int) -> None:
    place = orders["ring_at"] + SECTOR * index
    os.pwrite(disk, struct.pack("<Q", number).ljust(SECTOR, b"."), orders["data_offset"] + place)
    if orders["data_offset"]:
        sector = place // SECTOR
        where = orders["bitmap_offset"] + sector // 8
        (bits,) = os.pread(disk, 1, where)
        os.pwrite(disk, bytes([bits | 1 << sector % 8]), where)


class _Mconsole:
    def __init__(self, server: socket.socket, log: Any, shared: _Shared, orders: dict[str, Any]) -> None:
        self._server, self._log, self._shared = server, log, shared
        self._drain_ns = int(orders["drain_seconds"] * 1e9)
        self._silent, self._deaf = orders["silent"], orders["deaf"]

    def serve(self) -> None:
        while True:
            packet, sender = self._server.recvfrom(4096)
            _magic, _version, length = _HEAD.unpack_from(packet)
            command = packet[_HEAD.size :][:length].decode().rstrip("\0")
            if self._deaf.get(command, 0) > 0:
                self._deaf[command] -= 1
                self._log.write(f"{command} unheard\n")
                continue
            error, text = self._obey(command)
            self._log.write(f"{command}{' refused' if error else ''}\n")
            if self._silent.get(command, 0) > 0:
                self._silent[command] -= 1
                continue
            data = text.encode() + b"\0"
            with contextlib.suppress(OSError):  # whoever asked is gone
                self._server.sendto(_HEAD.pack(error, 0, len(data)) + data, sender)

    def _obey(self, command: str) -> tuple[int, str]:
        is_stopped = self._shared.get(_STOP_AT) != 0
        if command == "stop":
            if is_stopped:
                return 1, "Already stopped"
            self._shared.put(_STOP_AT, time.monotonic_ns() + self._drain_ns)
            return 0, "stopped"
        if command == "go":
            if not is_stopped:
                return 1, "Not stopped"
            self._shared.put(_STOP_AT, 0)
        return 0, ""


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
