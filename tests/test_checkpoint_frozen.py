"""Frozen copies: what a reader of the copy sees is what a reader of the disk saw, at the cost of what was changed."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit import model, oracle
from tests.kit.peers import mounted, needs, require
from umldisk.cow.file import CowFile
from umldisk.cow.layers import Layer, RawLayer
from umldisk.errors import BusyError, StorageError
from umldisk.ops.checkpoints.frozen import Room, open_in_use
from umldisk.system import transfer
from umldisk.system.files import DiskFile, open_disk
from umldisk.system.swapping import open_directory

_DISK_BYTES = 40 << 20
_PAGE_BYTES = 4096


def no_limit() -> None:
    """Allow any pause."""


class Scene:
    """A disk in a directory, opened as a take of a running guest does."""

    def __init__(self, directory: Path, resources: ExitStack) -> None:
        self.directory = directory
        self.base, self.cow = directory / "base", directory / "cow"
        self._resources = resources

    def write(self, base: bytes, changes: model.Changes | None) -> None:
        model.write_image(self.base, base)
        if changes is not None:
            model.write_cow(self.cow, self.base, changes)

    def layer(self) -> Layer:
        if not self.cow.exists():
            return RawLayer(self._top("base"))
        below = RawLayer(self._resources.enter_context(open_disk(self.base)))
        return CowFile.over(self._top("cow"), below).layer

    def _top(self, name: str) -> DiskFile:
        with open_directory(str(self.directory)) as directory:
            return self._resources.enter_context(open_in_use(directory, name))

    def room(self, layer: Layer) -> Room:
        with open_directory(str(self.directory)) as directory:
            return Room.prepare(layer, directory, self._resources)


def seen(room: Room) -> bytes:
    """Return what a reader of the copy sees."""
    layer: Layer = RawLayer(room.copy) if isinstance(room.layer, RawLayer) else _over(room)
    buffer = bytearray(layer.size_bytes)
    if buffer:
        layer.read_into(0, memoryview(buffer))
    return bytes(buffer)


def _over(room: Room) -> Layer:
    below = room.layer.below  # type: ignore[attr-defined]
    return CowFile.over(room.copy, below).layer


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as resources:
        yield Scene(tmp_path, resources)


pages = st.dictionaries(st.integers(0, 63), st.one_of(st.none(), st.binary(min_size=512, max_size=512)), max_size=40)


@given(pages, pages, st.booleans())
def test_the_copy_shows_what_the_disk_showed_when_it_was_filled(
    tmp_path_factory: pytest.TempPathFactory, before: model.Changes, after: model.Changes, has_cow: bool
) -> None:
    """The disk changes between the making of the room and its filling, and again afterwards."""
    base = bytes(64 * 512)
    directory = tmp_path_factory.mktemp("disk")
    with ExitStack() as resources:
        scene = Scene(directory, resources)
        scene.write(base, {} if has_cow else None)
        layer = scene.layer()
        change(scene, layer, before)
        room = scene.room(layer)
        change(scene, layer, after)
        room.fill(no_limit)
        change(scene, layer, dict.fromkeys(range(64), b"!" * 512))
        assert seen(room) == model.merged(base, {**before, **after})
        assert sorted(os.listdir(directory)) == (["base", "cow"] if has_cow else ["base"])


def change(scene: Scene, layer: Layer, changes: model.Changes) -> None:
    """Write as a guest does: data first, then the bit that declares it."""
    top = scene.cow if scene.cow.exists() else scene.base
    with top.open("r+b") as file:
        for sector, contents in changes.items():
            file.seek(layer.data_offset + sector * 512)
            file.write(contents or bytes(512))
            if top == scene.cow:
                place = layer.geometry.bitmap_offset + sector // 8  # type: ignore[attr-defined]
                file.seek(place)
                (bits,) = file.read(1)
                file.seek(place)
                file.write(bytes([bits | 1 << sector % 8]))


def test_only_what_is_declared_is_copied(scene: Scene) -> None:
    """Data without a bit is not the disk's, be there much of it; neither are holes."""
    scene.write(bytes(_DISK_BYTES), dict.fromkeys((0, 4000, *range(8000, 16000)), b"x" * 512))
    layer = scene.layer()
    with scene.cow.open("r+b") as cow:
        cow.seek(layer.data_offset + (20 << 20))
        cow.write(b"y" * (10 << 20))
    room = scene.room(layer)
    room.fill(no_limit)
    assert room.copy.size_bytes == layer.disk.size_bytes
    if not room.shares:
        copied = os.fstat(room.copy.fd).st_blocks * 512
        assert 8000 * 512 < copied < 8000 * 512 + 20 * _PAGE_BYTES


def test_the_clock_is_looked_at_while_much_is_copied(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "reflink", lambda _source, _target: False)
    scene.write(bytes(_DISK_BYTES), dict.fromkeys(range(_DISK_BYTES // 512), b"x" * 512))
    room = scene.room(scene.layer())
    looks: list[int] = []

    def too_long() -> None:
        looks.append(os.fstat(room.copy.fd).st_blocks)
        if len(looks) == 3:
            raise BusyError("too long")

    with pytest.raises(BusyError, match="too long"):
        room.fill(too_long)
    assert looks[0] == 0 < looks[1] < looks[2]
    assert os.fstat(room.copy.fd).st_blocks == 0  # given back before the guest goes on


@needs("root", "tmpfs")
def test_a_disk_that_fills_up_gives_the_room_back(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path, size_bytes=60 << 20) as place, ExitStack() as resources:
        scene = Scene(place, resources)
        scene.write(bytes(_DISK_BYTES), dict.fromkeys(range(20 << 11), b"x" * 512))
        room = scene.room(scene.layer())
        (place / "other").write_bytes(bytes(25 << 20))
        with pytest.raises(StorageError, match="No space left"):
            room.fill(no_limit)
        assert os.fstat(room.copy.fd).st_blocks == 0
        with pytest.raises(StorageError, match="too little room"):
            scene.room(scene.layer())


@needs("root")
@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
@pytest.mark.parametrize("has_cow", [True, False])
def test_where_data_can_be_shared_it_is(tmp_path: Path, kind: str, has_cow: bool) -> None:
    require(kind)
    written = bytes(range(256)) * (_DISK_BYTES // 256)
    changes = {sector: written[sector * 512 : sector * 512 + 512] for sector in range(32_000)} if has_cow else None
    with mounted(kind, tmp_path) as place, ExitStack() as resources:
        scene = Scene(place, resources)
        scene.write(bytes(_DISK_BYTES) if has_cow else written, changes)
        room = scene.room(scene.layer())
        assert room.shares
        change(scene, room.layer, {5: b"z" * 512})
        room.fill(no_limit)
        assert seen(room) == model.merged(
            bytes(_DISK_BYTES) if has_cow else written, {**(changes or {}), 5: b"z" * 512}
        )
        shared = oracle.shared_bytes(Path(f"/proc/self/fd/{room.copy.fd}"))
        assert shared >= 32_000 * 512
