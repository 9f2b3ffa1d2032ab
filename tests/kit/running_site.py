"""A site whose guest runs, or so umldisk believes: the guest is a fake, its file system a real one."""

import os
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.kit import model
from tests.kit.fake_guest import RING, SECTOR, FakeGuest
from tests.kit.nights import contents
from umldisk.checkpoint.index import parse
from umldisk.checkpoint.store import Store, index_key
from umldisk.config.site import Site
from umldisk.cow.header import CowHeader
from umldisk.guest.state import RunState, write_state
from umldisk.ops.checkpoints.take_report import TakeOptions, TakeReport
from umldisk.ops.checkpoints.taking import take_checkpoint

DISK_BYTES = 16 << 20
RING_AT = 12 << 20


class RunningSite:
    """A site whose guest `g` runs, on a var of a kind of file system; `options` are FakeGuest's."""

    def __init__(self, directory: Path, resources: ExitStack, kind: str = "ext4", **options: object) -> None:
        self.site = Site(str(directory))
        self.base = directory / "guests" / "g" / "var_fs"
        self.cow = self.base.with_name("var_cow")
        self.base.parent.mkdir(parents=True)
        make_file_system(self.base, kind)
        header = model.write_cow(self.cow, self.base, {})
        self.guest = resources.enter_context(self._start(header, options))
        self.guest.wait_writing()
        Path(self.run_directory).mkdir(parents=True)
        self.run = self.guest.run_state(("var", self.cow, self.base))
        self.know(self.run)

    def _start(self, header: CowHeader, options: dict[str, object]) -> FakeGuest:
        places = header.geometry
        return FakeGuest(
            self.cow,
            self.base,
            ring_at=RING_AT,
            bitmap_offset=places.bitmap_offset,
            data_offset=places.data_offset,
            **options,  # type: ignore[arg-type]
        )

    @property
    def run_directory(self) -> str:
        return self.site.run_directory("g")

    def know(self, run: RunState) -> None:
        """Let umldisk believe this of the run."""
        write_state(self.run_directory, run)

    def take(self, store: Store, options: TakeOptions | None = None, drives: Sequence[str] = ()) -> TakeReport:
        return take_checkpoint(self.site, "g", drives, options, store=store)

    def recorded(self, store: Store, number: int) -> bytes:
        return contents(store, parse(store.get(index_key("g", number))))


def make_file_system(path: Path, kind: str) -> None:
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
    if kind:
        command = ["mke2fs", "-q", "-F", "-b", "4096", "-N", "64", *kind.split(), str(path)]
        environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        subprocess.run(command, check=True, capture_output=True, env=environment)
    with path.open("rb") as file:
        file.seek(RING_AT)
        assert not any(file.read(SECTOR * (RING + 1)))


def ring_of(image: bytes) -> bytes:
    return image[RING_AT : RING_AT + SECTOR * (RING + 1)]
