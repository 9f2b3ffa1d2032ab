"""What an inode says of its file.

    0        40             100       128 + extra_isize    inode size
    numbers  block (60)     more      nanoseconds, epochs  extended attributes
             pointers, extents, a short target, a small file, or device numbers

Times: seconds are signed 32 bits; with room for it, two bits more shift them by whole 2^32 seconds into the years up to
2446, and 30 bits hold nanoseconds (ext4_decode_extra_time). Halves of the owner's numbers stand apart for the same
reason: the inode of ext2 had 16 bits for each.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass

from umldisk.image.extfs import layout
from umldisk.image.extfs.disk import Disk

_SECOND_NS = 1_000_000_000
_TYPES = {stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR, stat.S_IFBLK, stat.S_IFREG, stat.S_IFLNK, stat.S_IFSOCK}


@dataclass(frozen=True, slots=True)
class ExtInode:
    """An inode; `mode` holds type and permissions, times count nanoseconds from 1970 and may be negative.

    `born_ns` is None where the inode has no room for it; `device` is major and minor of a device and otherwise (0, 0).
    `block_area`, `body` (the room for extended attributes) and `xattr_block` are for the other modules of the package.
    """

    number: int
    mode: int
    uid: int
    gid: int
    size_bytes: int
    links: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    born_ns: int | None
    device: tuple[int, int]
    flags: int
    generation: int
    block_area: bytes
    body: bytes
    xattr_block: int

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether this is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        """Whether this is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    def has(self, flag: int) -> bool:
        """Whether a flag of layout.FLAG_* is set."""
        return bool(self.flags & flag)


def read_inode(disk: Disk, number: int) -> ExtInode:
    """Read an inode that is in use.

    Raises DataError when there is no such inode, it is free, or it contradicts itself.
    """
    raw = disk.raw_inode(number)
    fields = layout.INODE.unpack_from(raw)
    mode, block_area = fields[0], fields[12]
    if stat.S_IFMT(mode) not in _TYPES:
        what = "an inode of no known type" if mode else "a name leads to a free inode"
        raise disk.damaged(what, number, found=oct(mode))
    extra_bytes = _extra_bytes(disk, raw, number)
    times = _times(raw, {"atime": fields[3], "ctime": fields[4], "mtime": fields[5]}, extra_bytes)
    return ExtInode(
        number=number,
        mode=mode,
        uid=fields[1] | fields[19] << 16,
        gid=fields[7] | fields[20] << 16,
        size_bytes=_size_bytes(disk, number, mode, fields[2], fields[15]),
        links=fields[8],
        mtime_ns=times["mtime"],
        ctime_ns=times["ctime"],
        atime_ns=times["atime"],
        born_ns=times.get("crtime"),
        device=_device(block_area) if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else (0, 0),
        flags=fields[10],
        generation=fields[13],
        block_area=block_area,
        body=raw[layout.OLD_INODE_BYTES + extra_bytes :] if extra_bytes else b"",
        xattr_block=fields[14] | (fields[18] << 32 if disk.geometry.has("64bit") else 0),
    )


def _extra_bytes(disk: Disk, raw: bytes, number: int) -> int:
    """Return how many bytes of fields follow the inode of ext2; 0 where the inode is no larger than that."""
    room = len(raw) - layout.OLD_INODE_BYTES
    if room == 0:
        return 0
    extra: int = layout.EXTRA_SIZE.unpack_from(raw, layout.OLD_INODE_BYTES)[0]
    if extra > room or extra % 4:
        raise disk.damaged("a bad extra size of an inode", number, expected=f"4 times something to {room}", found=extra)
    return extra


def _size_bytes(disk: Disk, number: int, mode: int, low: int, high: int) -> int:
    wide = stat.S_ISREG(mode) or disk.geometry.has("large_dir")
    size = low & 0xFFFFFFFF | (high << 32 if wide else 0)
    longest = disk.geometry.block_bytes << 32
    if size > longest:
        raise disk.damaged("the file is longer than any can be", number, expected=f"at most {longest}", found=size)
    return size


def _times(raw: bytes, seconds: dict[str, int], extra_bytes: int) -> dict[str, int]:
    """Return the times in nanoseconds, as far as the inode has them."""
    end = layout.OLD_INODE_BYTES + extra_bytes
    if end >= layout.BIRTH_SECONDS_OFFSET + 4:
        born = raw[layout.BIRTH_SECONDS_OFFSET : layout.BIRTH_SECONDS_OFFSET + 4]
        seconds["crtime"] = int.from_bytes(born, "little", signed=True)
    times = {name: value * _SECOND_NS for name, value in seconds.items()}
    for name, offset in layout.EXTRA_TIMES:
        if name in times and offset + 4 <= end:
            extra = int.from_bytes(raw[offset : offset + 4], "little")
            times[name] += ((extra & 3) << 32) * _SECOND_NS + (extra >> 2)
    return times


def _device(block_area: bytes) -> tuple[int, int]:
    """Decode device numbers: 16 bits in the first pointer, or 32 in the second (include/linux/kdev_t.h)."""
    old = int.from_bytes(block_area[:4], "little")
    if old:
        return old >> 8 & 0xFF, old & 0xFF
    new = int.from_bytes(block_area[4:8], "little")
    return (new & 0xFFF00) >> 8, new & 0xFF | (new >> 12) & 0xFFF00
