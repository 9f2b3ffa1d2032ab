"""Digests of files with holes.

`contents_sha256` is what sha256sum says of a file. It has to hash its zeros, too, however long a hole is: no short cut
leads over a run of zeros, because the state of SHA-256 behind it depends on all that came before. The digest of a
sparse disk, instead, is taken as fast as its data can be read:

    SHA-256 of:   offset (u64, little-endian), data      for every 64 KiB block that is not all zeros, ascending
                  size (u64, little-endian)              once, at the end

Blocks begin at multiples of 64 KiB; the last one of the file may be short. A hole and written zeros count the same, so
that a copy has the digest of its original, and a disk of 1 TiB with 5 MB of data takes as long as 5 MB do. Two files
with one digest have the same bytes and the same size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from umldisk.system import sparse, transfer
from umldisk.system.files import DiskFile

BLOCK_BYTES = 64 * 1024
_ZEROS = bytes(1 << 20)


def sparse_sha256(disk: DiskFile) -> str:
    """Return the digest of the whole of `disk` as hexadecimal; raises StorageError when it cannot be read."""
    digest, size, position = hashlib.sha256(), disk.size_bytes, 0
    for start, end in sparse.data_extents(disk.fd, 0, size):
        first = max(start - start % BLOCK_BYTES, position)
        position = min(end + -end % BLOCK_BYTES, size)
        for offset in range(first, position, BLOCK_BYTES):
            block = disk.read_at(offset, min(BLOCK_BYTES, size - offset))
            if not transfer.is_zero(block):
                digest.update(offset.to_bytes(8, "little"))
                digest.update(block)
    digest.update(size.to_bytes(8, "little"))
    return digest.hexdigest()


def contents_sha256(
    pieces: Iterable[tuple[int, bytes]], size_bytes: int, *, when_hashed: Callable[[int], object] = lambda _bytes: None
) -> bytes:
    """Return the SHA-256 of a file that is given as ascending pieces `(offset, data)` between holes.

    `when_hashed` is called with a number of bytes, all numbers together `size_bytes`, and never long after the last
    time, however large a hole is.
    """
    digest, end = hashlib.sha256(), 0
    for offset, data in pieces:
        _update_with_zeros(digest, offset - end, when_hashed)
        digest.update(data)
        when_hashed(len(data))
        end = offset + len(data)
    _update_with_zeros(digest, size_bytes - end, when_hashed)
    return digest.digest()


def _update_with_zeros(digest: hashlib._Hash, count: int, when_hashed: Callable[[int], object]) -> None:
    """Add `count` zero bytes to a digest, so few at a time that a signal is soon handled."""
    for done in range(0, count, len(_ZEROS)):
        length = min(len(_ZEROS), count - done)
        digest.update(memoryview(_ZEROS)[:length])
        when_hashed(length)
