"""Thirty nights of a real guest, each restored byte for byte: by umldisk, by casync, and by booting it.

Every seventh night ends with a power cut, so that journals which have yet to be replayed are among what is recorded.
"""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kit import s3
from tests.kit.guest import Guest
from tests.kit.nights_guest import DRIVES, NAME, Nights, sha256
from tests.kit.oracle import allocated_bytes, moo, run_tool
from tests.kit.peers import needs
from umldisk.checkpoint.directory_store import DirectoryStore
from umldisk.checkpoint.object_store import ObjectStore
from umldisk.checkpoint.recording import Why
from umldisk.ops.checkpoints.take_report import TakenDrive
from umldisk.ops.provision import BuildReport
from umldisk.ops.restoring.planning import Way, Wish
from umldisk.ops.restoring.restore import restore_guest

pytestmark = [
    pytest.mark.slow,
    needs("linux", "setarch", "mke2fs", "debugfs", "e2fsck", "busybox", "uml_moo", "casync"),
]

_DAYS_TO_A_POWER_CUT = 7
_EMPTY_COW_BYTES = 64 << 10


def test_every_one_of_thirty_nights_comes_back() -> None:
    # The kernel's command line must carry the paths of all disks: pytest's own directory would be long.
    with tempfile.TemporaryDirectory(prefix="umldisk-") as name:
        directory = Path(name)
        nights = Nights(directory, DirectoryStore(str(directory / "store")), merged="var")
        built = nights.build()
        _live(nights, built, 30)
        _require_all_back(nights, directory / "store")
        _restore_and_boot(nights, built, 13, Wish(number=nights.numbers["var"][12]))
        _restore_and_boot(nights, built, 14, Wish(number=nights.numbers["home"][13], drives=DRIVES))


def test_nights_come_back_from_an_object_store() -> None:
    with tempfile.TemporaryDirectory(prefix="umldisk-") as name, s3.serving(Path(name)) as service:
        store = ObjectStore(f"s3://{s3.BUCKET}/uml", environment=service.environment())
        nights = Nights(Path(name), store, merged="home")
        built = nights.build()
        _live(nights, built, 5)
        _require_all_back(nights, service.bucket / "uml")
        _restore_and_boot(nights, built, 3, Wish(number=nights.numbers["var"][2]))


def _live(nights: Nights, built: BuildReport, count: int) -> None:
    for night in range(1, count + 1):
        nights.work(built, night, power_cut=_has_power_cut(night))
        for name, taken in nights.take().items():
            _require_taken_well(nights, name, taken, night)
    assert len(set(nights.images.values())) == 2 * count
    assert sha256(nights.base(nights.merged)) == nights.images[nights.numbers[nights.merged][-1]]


def _has_power_cut(night: int) -> bool:
    return night % _DAYS_TO_A_POWER_CUT == 0


def _require_taken_well(nights: Nights, name: str, taken: TakenDrive, night: int) -> None:
    """Only the first night is read as a whole, and only a merge leaves an empty COW file."""
    assert taken.read_whole == (night == 1)
    assert taken.why is (Why.NEW if night == 1 else Why.KNOWN)
    assert taken.merged == (name == nights.merged)
    assert (allocated_bytes(nights.cow(name)) <= _EMPTY_COW_BYTES) == taken.merged
    before = nights.numbers[name][-2] if night > 1 else None
    assert taken.parent == before
    assert 0 < taken.stored_bytes <= (taken.changed_bytes or 0) + taken.read_bytes


def _require_all_back(nights: Nights, stored: Path) -> None:
    """Every checkpoint is the image that was saved, for umldisk and for casync."""

    def given_back(number: int) -> tuple[int, str, str]:
        return number, nights.exported(number), nights.extracted(number, stored)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(given_back, nights.images))
    assert found == [(number, saved, saved) for number, saved in nights.images.items()]


def _restore_and_boot(nights: Nights, built: BuildReport, night: int, wish: Wish) -> None:
    """Restore a night, look at what is on the disks, boot the guest, and go on recording."""
    report = restore_guest(nights.site, NAME, wish, store=nights.store, clock=lambda: nights.now)
    ways = {drive.name: drive.way for drive in report.drives}
    restored = [name for name in DRIVES if ways.get(name) is Way.CHECKPOINT]
    assert restored == list(wish.drives or ("var",))
    for name in restored:
        assert sha256(nights.base(name)) == nights.images[nights.numbers[name][night - 1]]
        if not _has_power_cut(night):
            _require_sound(nights.base(name))
    with Guest(built.boot_argv) as guest:
        guest.wait_ready()
        for name in restored:
            assert guest.run(f"cd /{name} && sha256sum -c sums && cat night").endswith(f"OK\n{night}\n")
        guest.cad()
        assert guest.wait_exit() == 0
    for name in DRIVES:
        moo(nights.cow(name), image := nights.directory / "image")
        _require_sound(image)
        image.unlink()
    assert all(taken.why is Why.KNOWN for taken in nights.take().values())


def _require_sound(image: Path) -> None:
    """The file system is clean as it is, with nothing left to repair or to replay."""
    found = run_tool("e2fsck", "-fn", image)
    assert found.returncode == 0, found.stdout.decode(errors="replace")
