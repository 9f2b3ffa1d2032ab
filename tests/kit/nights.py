"""A guest whose var is written to night after night, and what its checkpoints have to be.

items      the index of an image, computed from the whole of it in the plainest way
contents   an image put together again from an index and the chunks of a store
Site_      a site with one guest, of which the test writes COW and backing file by itself
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st

from tests.kit import model
from umldisk.checkpoint.basestate import BaseState
from umldisk.checkpoint.catalog import CATALOG_NAME, Catalog
from umldisk.checkpoint.chunks import read_chunk
from umldisk.checkpoint.index import Index, parse
from umldisk.checkpoint.store import Store, base_key, index_key
from umldisk.config.site import Site
from umldisk.cow.file import CowFile
from umldisk.ops.checkpoints.take_report import TakenDrive, TakeOptions
from umldisk.ops.checkpoints.taking import take_checkpoint

PLACE, REGION = 65536, 1 << 20

Items = list[tuple[int, bytes]]


def sha(data: bytes) -> bytes:
    return hashlib.new("sha512_256", data).digest()


def items(image: bytes) -> Items:
    """Cut an image as the index's essay says, and name the pieces."""
    found = []
    for start in range(0, len(image), REGION):
        region = image[start : start + REGION]
        step = PLACE if any(region) else REGION
        for at in range(0, len(region), step):
            piece = region[at : at + step]
            found.append((start + at + len(piece), sha(piece)))
    return found


def items_of(index: Index) -> Items:
    return [(chunk.end, chunk.name) for chunk in index.chunks()]


def contents(store: Store, index: Index) -> bytes:
    """Read every chunk, those of zeros too, and join them."""
    return b"".join(read_chunk(store, chunk.name, chunk.end - chunk.start) for chunk in index.chunks())


def touched(changes: Mapping[int, object], size_bytes: int) -> dict[int, int]:
    """Return where the places start that changed sectors lie in, and how long each is."""
    starts = {sector * 512 - sector * 512 % PLACE for sector in changes}
    return {start: min(PLACE, size_bytes - start) for start in sorted(starts)}


@dataclass
class Scene:
    """A site with the guest `g`; `base` and `changes` are what backing and COW file hold."""

    directory: Path
    base: bytes
    changes: dict[int, bytes | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.directory / "guests" / "g").mkdir(parents=True)
        model.write_image(self.backing, self.base)
        self.write_night({})

    @property
    def site(self) -> Site:
        return Site(str(self.directory))

    @property
    def backing(self) -> Path:
        return self.directory / "guests" / "g" / "var_fs"

    @property
    def cow(self) -> Path:
        return self.directory / "guests" / "g" / "var_cow"

    @property
    def view(self) -> bytes:
        return model.merged(self.base, self.changes)

    def write_night(self, changes: Mapping[int, bytes | None]) -> None:
        """Let the guest write: the COW file is made anew with all that changed since it was empty."""
        self.changes = {**self.changes, **changes}
        model.write_cow(self.cow, self.backing, self.changes)

    def merged(self) -> None:
        """Take note of a merge."""
        self.base, self.changes = self.view, {}

    def as_files_are(self) -> bytes:
        """Return what a guest would see now."""
        with CowFile.open(self.cow) as cow:
            return cow.read(0, cow.size_bytes)

    def base_state(self) -> BaseState | None:
        with Catalog.open(self.directory / CATALOG_NAME, writable=True) as catalog:
            return catalog.base_state("g", "var")

    def assert_recorded(self, store: Store, number: int, image: bytes) -> None:
        """The checkpoint is the image, and every chunk that it names is in the store."""
        index = parse(store.get(index_key("g", number)))
        assert items_of(index) == items(image)
        assert contents(store, index) == image

    def assert_base_state_is_true(self, store: Store) -> bool:
        """Whatever is believed of the backing file is so; tell whether anything is."""
        state = self.base_state()
        if state is None or not state.holds_for(os.stat(self.backing)):
            return False
        raw = store.get(base_key("g", "var"))
        if hashlib.sha256(raw).hexdigest() != state.index_sha256:
            return False  # which a take finds out, too
        assert items_of(parse(raw)) == items(self.backing.read_bytes())
        assert contents(store, parse(raw)) == self.backing.read_bytes()
        return True


SIZE = 2 * REGION + 3 * PLACE + 100
BASE = (b"base" * (SIZE // 4 + 1))[: REGION + PLACE] + bytes(SIZE - REGION - PLACE)
MERGE = TakeOptions(merge=True)


def take(scene: Scene, store: Store, options: TakeOptions | None = None) -> TakenDrive:
    """Take a checkpoint of var."""
    (taken,) = take_checkpoint(scene.site, "g", (), options, store=store).drives
    return taken


def sector(number: int, letter: bytes = b"x") -> dict[int, bytes | None]:
    """Return a night in which one sector was written."""
    return {number: letter * 512}


# -- for Hypothesis ---------------------------------------------------------------------------------------------------

sizes = st.one_of(
    st.sampled_from([1, 511, 512, 4097, PLACE - 1, PLACE, PLACE + 1, REGION - 1, REGION, REGION + 1, REGION + PLACE]),
    st.integers(1, 5 * PLACE),
    st.integers(REGION - 3 * PLACE, 3 * REGION),
)
"""Lengths of disks around the places and regions that they are cut into."""


@st.composite
def images(draw: st.DrawFn, size_bytes: int) -> bytes:
    """Draw a disk of places that are zeros, equal to others, different, or written in one byte."""
    runs = draw(st.lists(st.tuples(st.sampled_from("0001abn"), st.integers(1, 20)), min_size=1, max_size=6))
    kinds = "".join(kind * length for kind, length in runs)
    pieces = []
    for number in range(-(-size_bytes // PLACE)):
        kind = kinds[number % len(kinds)]
        pieces.append(_place(kind, number))
    return b"".join(pieces)[:size_bytes]


def _place(kind: str, number: int) -> bytes:
    if kind == "0":
        return bytes(PLACE)
    if kind == "1":
        return bytes(number % 4096) + b"\1" + bytes(PLACE - 1 - number % 4096)
    word = b"%d;" % number if kind == "n" else kind.encode()
    return (word * (PLACE // len(word) + 1))[:PLACE]


@st.composite
def nights(draw: st.DrawFn, size_bytes: int) -> dict[int, bytes | None]:
    """Draw what a guest writes in a night: runs of sectors with data, zeros, or holes under set bits."""
    sectors = -(-size_bytes // 512)
    run = st.tuples(st.integers(0, sectors - 1), st.integers(1, 300), st.sampled_from(["x", "y", "0", "hole"]))
    changes: dict[int, bytes | None] = {}
    for start, length, kind in draw(st.lists(run, max_size=5)):
        data = None if kind == "hole" else bytes(512) if kind == "0" else kind.encode() * 512
        changes |= dict.fromkeys(range(start, min(start + length, sectors)), data)
    return changes
