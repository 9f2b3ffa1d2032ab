"""Moving bytes between open files: share them, let the kernel copy them, or read and write them.

In that order, whichever the two files allow: a reflink costs no data at all, `copy_file_range` no trip through this
process (and is itself a reflink where alignment permits), read and write always work and are the only way that can
look for zeros. Every function moves exactly what it is told or raises OSError.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator

CHUNK_BYTES = 256 * 1024
"""How much is read at once: small enough for the processor's cache, large enough to make system calls cheap."""

PAGE_BYTES = 4096
"""The grain in which zeros are looked for: the block size of the file systems in use, as in `qemu-img convert`."""

_FICLONE = 0x40049409
_FICLONERANGE = 0x4020940D
_CLONE_RANGE = struct.Struct("qQQQ")
_FS_IOC_UNRESVSP64 = 0x4030582B
_BLKZEROOUT = 0x127F
_SPACE_RESV = struct.Struct("hhqqiI4i")
_ZERO_PAGE = bytes(PAGE_BYTES)
_ZERO_CHUNK = bytes(CHUNK_BYTES)
_NOT_POSSIBLE = (
    errno.EXDEV,
    errno.EINVAL,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.ENOTTY,
    errno.EBADF,
    errno.EPERM,
    errno.ETXTBSY,
)


def reflink(source_fd: int, target_fd: int) -> bool:
    """Make the target share all data of the source (FICLONE); return False where the file system cannot."""
    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
    except OSError as error:
        if error.errno in _NOT_POSSIBLE:
            return False
        raise
    return True


def reflink_range(source_fd: int, source_offset: int, target_fd: int, target_offset: int, length: int) -> bool:
    """Make a range of the target share the source's data (FICLONERANGE); return False where that cannot be done.

    Both offsets must be whole blocks of the file system, and the length too unless the source ends there.
    """
    try:
        fcntl.ioctl(target_fd, _FICLONERANGE, _CLONE_RANGE.pack(source_fd, source_offset, length, target_offset))
    except OSError as error:
        if error.errno in _NOT_POSSIBLE:
            return False
        raise
    return True


def copy(source_fd: int, source_offset: int, target_fd: int, target_offset: int, length: int) -> None:
    """Copy `length` bytes inside the kernel where it can, else through memory; holes may become zeros.

    The source must have them all; a source that ends early raises EIO.
    """
    done = 0
    while done < length:
        try:
            copied = os.copy_file_range(source_fd, target_fd, length - done, source_offset + done, target_offset + done)
        except OSError as error:
            if error.errno not in _NOT_POSSIBLE:
                raise
            copied = 0
        if copied == 0:
            _copy_through_memory(source_fd, source_offset + done, target_fd, target_offset + done, length - done)
            return
        done += copied


def _copy_through_memory(source_fd: int, source_offset: int, target_fd: int, target_offset: int, length: int) -> None:
    chunk = memoryview(bytearray(min(length, CHUNK_BYTES)))
    for done in range(0, length, CHUNK_BYTES):
        part = chunk[: min(length - done, CHUNK_BYTES)]
        if read_into(source_fd, source_offset + done, part) < len(part):
            raise OSError(errno.EIO, "the source ends early")
        write_all(target_fd, target_offset + done, part)


def read_into(fd: int, offset: int, buffer: memoryview) -> int:
    """Fill `buffer` from `offset`; return how much there was, less than asked only at the end of the file."""
    done = 0
    while done < len(buffer):
        count = os.preadv(fd, [buffer[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done


def write_all(fd: int, offset: int, data: memoryview | bytes) -> None:
    """Write all of `data` at `offset`."""
    done = os.pwrite(fd, data, offset)
    while done < len(data):
        done += os.pwrite(fd, memoryview(data)[done:], offset + done)


def punch(fd: int, offset: int, length: int) -> None:
    """Make `length` bytes at `offset` read as zeros and give their blocks back; zeros are written where that fails.

    The file keeps its length. Of a block device the range is zeroed, by the device itself where it knows how.
    """
    if length <= 0:
        return
    status = os.fstat(fd)
    reach = length
    if offset + length == status.st_size:  # the last block goes as a whole, though the file ends inside it
        reach += -status.st_size % PAGE_BYTES
    try:
        if stat.S_ISBLK(status.st_mode):
            fcntl.ioctl(fd, _BLKZEROOUT, struct.pack("QQ", offset, length))
        else:
            # l_type and l_whence 0, start, length; the kernel's generic form of fallocate(PUNCH_HOLE | KEEP_SIZE)
            fcntl.ioctl(fd, _FS_IOC_UNRESVSP64, _SPACE_RESV.pack(0, os.SEEK_SET, offset, reach, 0, 0, 0, 0, 0, 0))
    except OSError as error:
        if error.errno not in _NOT_POSSIBLE:
            raise
        write_zeros(fd, offset, length)


def write_zeros(fd: int, offset: int, length: int) -> None:
    """Write `length` real zeros at `offset`."""
    zeros = memoryview(_ZERO_CHUNK)
    for done in range(0, length, CHUNK_BYTES):
        write_all(fd, offset + done, zeros[: min(length - done, CHUNK_BYTES)])


def is_zero(buffer: bytes | bytearray | memoryview) -> bool:
    """Whether every byte of a piece of at most CHUNK_BYTES is zero."""
    return bytes(buffer) == _ZERO_CHUNK[: len(buffer)]


def same(left: bytearray, right: bytearray, length: int) -> bool:
    """Whether the first `length` bytes are the same; as memory, which comparing views would not be."""
    if length == len(left) == len(right):
        return left == right
    return left[:length] == right[:length]


def nonzero_spans(buffer: bytes | bytearray, length: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches `(start, end)` of the first `length` bytes that are not whole pages of zeros.

    Pages are counted from the start of the buffer; the last one may be short. Only pages whose first byte is zero are
    looked at: in data they are few.
    """
    heads = buffer[0:length:PAGE_BYTES]
    start = 0
    page = heads.find(0)
    while page >= 0:
        low = page * PAGE_BYTES
        high = _zeros_until(buffer, low, length)
        if start < low < high:
            yield start, low
        if low < high:
            start = high
        page = heads.find(0, max(page + 1, -(-high // PAGE_BYTES)))
    if start < length:
        yield start, length


def _zeros_until(buffer: bytes | bytearray, low: int, length: int) -> int:
    """Return where the pages of zeros that begin at `low` end."""
    while low + PAGE_BYTES <= length and buffer.startswith(_ZERO_PAGE, low):
        low += PAGE_BYTES
    if low < length < low + PAGE_BYTES and buffer.startswith(_ZERO_PAGE[: length - low], low):
        return length
    return low
