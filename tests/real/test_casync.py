"""casync as the judge of our indexes and chunks, and its own as input to us."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.kit import model, nights
from tests.kit.nights import PLACE, REGION, Scene
from tests.kit.peers import needs
from umldisk.checkpoint.chunks import read_chunk
from umldisk.checkpoint.directory_store import DirectoryStore
from umldisk.checkpoint.index import parse
from umldisk.checkpoint.store import index_key
from umldisk.ops.checkpoints.take_report import TakeOptions
from umldisk.ops.checkpoints.taking import take_checkpoint

pytestmark = [pytest.mark.real, needs("casync")]

PROGRAMS = b"".join(path.read_bytes() for path in map(Path, ("/bin/sh", "/bin/ls")))

DISKS = {
    "one byte": b"x",
    "one zero": b"\0",
    "a sector": b"s" * 512,
    "odd": PROGRAMS[:100_001],
    "zeros": bytes(3 * REGION),
    "zeros, odd": bytes(2 * REGION + PLACE + 5),
    "a place of zeros in data": PROGRAMS[:PLACE] + bytes(PLACE) + PROGRAMS[: 2 * PLACE],
    "a short end of zeros": PROGRAMS[:PLACE] + bytes(77),
    "sparse": PROGRAMS[:PLACE] + bytes(5 * REGION) + PROGRAMS[:3] + bytes(REGION),
    "exactly a region": (PROGRAMS * 8)[:REGION],
}


def casync(*arguments: str | Path) -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        ["casync", *map(str, arguments)], check=False, capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr


def extracted(scene: Scene, number: int) -> bytes:
    """Let casync put a checkpoint together from our store."""
    store, out = scene.directory / "store", scene.directory / f"out-{number}"
    casync("extract", f"--store={store / 'chunks'}", store / index_key("g", number), out)
    return out.read_bytes()


@pytest.mark.parametrize("name", DISKS)
def test_casync_restores_our_disks_byte_for_byte(tmp_path: Path, name: str) -> None:
    image = DISKS[name]
    scene = Scene(tmp_path, image)
    take_checkpoint(scene.site, "g")
    assert extracted(scene, 1) == image


def test_casync_restores_every_night(tmp_path: Path) -> None:
    size = 3 * REGION + 1234
    scene = Scene(tmp_path, (PROGRAMS * 4)[: REGION + 9].ljust(size, b"\0"))
    views = []
    for night in range(6):
        start = night * 1000
        scene.write_night(
            {
                start + n: [b"written night %02d" % night * 32, bytes(512), None][n // 150]
                for n in range(0, 400, 1 + night)
            }
        )
        views.append(scene.view)
        take_checkpoint(scene.site, "g", (), TakeOptions(merge=night % 2 == 1))
        if night % 2:
            scene.merged()
    for number, view in enumerate(views, start=1):
        assert extracted(scene, number) == view


@pytest.mark.parametrize("name", DISKS)
def test_what_casync_made_is_read_with_its_own_cuts(tmp_path: Path, name: str) -> None:
    image = DISKS[name] * 3
    path = model.write_image(tmp_path / "disk", image)
    (tmp_path / "store").mkdir()
    casync("make", f"--store={tmp_path / 'store' / 'chunks'}", tmp_path / "disk.caibx", path)
    raw = (tmp_path / "disk.caibx").read_bytes()
    index = parse(raw)
    assert index.build() == raw
    assert index.size_bytes == len(image)
    store = DirectoryStore(str(tmp_path / "store"))
    assert nights.contents(store, index) == image
    for chunk in index.chunks():
        assert read_chunk(store, chunk.name, chunk.end - chunk.start) == image[chunk.start : chunk.end]


def test_an_empty_file_of_casync_is_an_empty_index(tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    casync("make", f"--store={tmp_path / 'chunks'}", tmp_path / "disk.caibx", tmp_path / "disk")
    index = parse((tmp_path / "disk.caibx").read_bytes())
    assert (len(index), index.size_bytes) == (0, 0)


def test_an_empty_disk_of_ours_is_an_empty_file_of_casync(tmp_path: Path) -> None:
    scene = Scene(tmp_path, b"")
    take_checkpoint(scene.site, "g")
    assert extracted(scene, 1) == b""


def test_casync_finds_a_damaged_chunk(tmp_path: Path) -> None:
    """Else its agreeing in the tests above would prove little."""
    scene = Scene(tmp_path, DISKS["odd"])
    take_checkpoint(scene.site, "g")
    index = parse((scene.directory / "store" / index_key("g", 1)).read_bytes())
    store = DirectoryStore(str(scene.directory / "store"))
    hurt = index.chunk(0).name.hex()
    other = index.chunk(1).name.hex()
    chunks = Path(store.location) / "chunks"
    (chunks / hurt[:4] / f"{hurt}.cacnk").write_bytes((chunks / other[:4] / f"{other}.cacnk").read_bytes())
    with pytest.raises(AssertionError):
        extracted(scene, 1)
