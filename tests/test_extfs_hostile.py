"""The ext reader on damaged images: a result or a DataError, in bounded time and memory, whatever the bytes are."""

import functools
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kit.extimage import SMALL_ACL, SMALL_BYTES, SMALL_KINDS, LimitedReader, small_image
from tests.kit.peers import needs
from tests.kit.readers import BytesReader
from umldisk.errors import DataError
from umldisk.image.extfs import layout
from umldisk.image.extfs.volume import PIECE_BYTES, Volume, inode_numbers

pytestmark = needs("mke2fs", "debugfs")


def refusal(work: Callable[[], object]) -> str | None:
    """Do something that may raise DataError, and nothing else; return the line it said."""
    try:
        work()
    except DataError as error:
        return error.line()
    return None


def read_everything(data: bytes) -> int:
    """Read all that an image has; return how many paths were read without an error."""
    reader = LimitedReader(data)
    read: list[int] = []

    def walk() -> None:
        volume = Volume.open(reader, where="image")
        read.extend(number for _path, number in volume.walk() if is_readable(volume, number))

    said = refusal(walk)
    assert said is None or ("image" in said and len(said) < 2000)
    assert reader.largest <= PIECE_BYTES
    return len(read)


def is_readable(volume: Volume, number: int) -> bool:
    said = refusal(lambda: read_inode(volume, number))
    assert said is None or "inode" in said or "byte" in said
    return said is None


def read_inode(volume: Volume, number: int) -> None:
    inode = volume.inode(number)
    volume.xattrs(inode)
    if inode.is_symlink:
        assert len(volume.symlink_target(inode)) == inode.size_bytes
    elif inode.is_file:
        end = 0
        for offset, piece in volume.pieces(inode):
            assert offset >= end
            end = offset + len(piece)
            assert end <= inode.size_bytes


@functools.cache
def used_bytes(kind: str) -> tuple[int, ...]:
    """Return the places of an image that hold something, where a flipped byte says something else."""
    return tuple(number for number, byte in enumerate(small_image(kind)) if byte)


@pytest.mark.parametrize("kind", SMALL_KINDS)
def test_a_sound_image_is_read_as_a_whole(kind: str) -> None:
    data = small_image(kind)
    assert read_everything(data) == 75
    volume = Volume.open(BytesReader(data))
    numbers = inode_numbers(volume)
    assert volume.xattrs(volume.inode(numbers["/d/e"])) == (("system.posix_acl_access", SMALL_ACL),)
    assert list(volume.pieces(volume.inode(numbers["/tiny"]))) == [(0, b"t" * 100)]
    assert volume.inode(numbers["/tiny"]).has(layout.FLAG_INLINE_DATA) == (kind == "inline")
    in_an_inode = (("user.longer", b"V" * 1024),) if kind == "inline" else ()
    assert volume.xattrs(volume.inode(numbers["/tiny"])) == in_an_inode


@pytest.mark.parametrize("kind", SMALL_KINDS)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_flipped_bytes_give_a_result_or_a_data_error(kind: str, data: st.DataObject) -> None:
    image = bytearray(small_image(kind))
    places = used_bytes(kind)
    for index, value in data.draw(
        st.lists(
            st.tuples(
                st.integers(0, len(places) - 1), st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)
            ),
            min_size=1,
            max_size=12,
        )
    ):
        image[places[index]] = value
    read_everything(bytes(image))


@pytest.mark.parametrize("kind", SMALL_KINDS)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_words_anywhere_in_the_metadata_give_a_result_or_a_data_error(kind: str, data: st.DataObject) -> None:
    """Numbers of inodes and blocks that exist lead further astray than noise."""
    image = bytearray(small_image(kind))
    words = [place & ~3 for place in used_bytes(kind)]
    for index, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(words) - 1), st.integers(0, 1100)), min_size=1, max_size=6)
    ):
        image[words[index] : words[index] + 4] = value.to_bytes(4, "little")
    read_everything(bytes(image))


@pytest.mark.parametrize("kind", SMALL_KINDS)
@settings(max_examples=100, deadline=None)
@given(length=st.integers(0, SMALL_BYTES - 1))
def test_a_cut_image_is_refused(kind: str, length: int) -> None:
    with pytest.raises(DataError):
        Volume.open(BytesReader(small_image(kind)[:length]))


@pytest.mark.parametrize("kind", SMALL_KINDS)
@given(length=st.integers(0, SMALL_BYTES - 1))
@settings(max_examples=60, deadline=None)
def test_a_disk_that_shrinks_while_it_is_read_is_refused(kind: str, length: int) -> None:
    reader = BytesReader(small_image(kind))
    volume = Volume.open(reader, where="image")
    reader.data = reader.data[:length]
    said = refusal(lambda: [read_inode(volume, number) for _path, number in volume.walk()])
    assert said is None or "cut off" in said


@given(st.binary(max_size=4096))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(DataError):
        Volume.open(BytesReader(noise))
