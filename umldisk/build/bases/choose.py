"""Telling what kind of base a path leads to, by what is in it and never by its name.

    a directory                              DirectoryBase
    "ustar" at byte 257                      TarBase
    an ext superblock at byte 1024           ImageBase, as for COW files and whole disks, which it refuses and explains
    a header whose check sum is right        TarBase: v7 had no magic

All but directories are looked at through their compression. Whatever else has a magic is refused by its name; it is
looked for before the check sum, which one file in some ten thousand has by chance.
"""

from __future__ import annotations

import os

from umldisk.build.bases.base import Base
from umldisk.build.bases.compression import STDIN, Archive, detect_compression, open_archive
from umldisk.errors import DataError

_USTAR_AT, _USTAR = 257, b"ustar"
_PEEK_BYTES = 70 << 10

_OTHERS: tuple[tuple[int, bytes, str, str | None], ...] = (
    (0, b"QFI\xfb", "a QCOW image", "convert it with `qemu-img convert -O raw`"),
    (0, b"KDMV", "a VMDK image", "convert it with `qemu-img convert -O raw`"),
    (0, b"conectix", "a VHD image", "convert it with `qemu-img convert -O raw`"),
    (0, b"vhdxfile", "a VHDX image", "convert it with `qemu-img convert -O raw`"),
    (64, b"\x7f\x10\xda\xbe", "a VDI image", "convert it with `qemu-img convert -O raw`"),
    (0, b"hsqs", "a squashfs image", "unpack it with `unsquashfs` and give the directory"),
    (0, b"sqsh", "a squashfs image", "unpack it with `unsquashfs` and give the directory"),
    (1024, b"\xe2\xe1\xf5\xe0", "an erofs image", "mount it and give the directory"),
    (0, b"XFSB", "an XFS file system", "mount it and give the directory"),
    (65600, b"_BHRfS_M", "a Btrfs file system", "mount it and give the directory"),
    (32769, b"CD001", "an ISO 9660 image", "mount it and give the directory"),
    (0, b"070701", "a cpio archive", "unpack it with `cpio` and give the directory"),
    (0, b"070702", "a cpio archive", "unpack it with `cpio` and give the directory"),
    (0, b"070707", "a cpio archive", "unpack it with `cpio` and give the directory"),
    (0, b"\xc7\x71", "a cpio archive", "unpack it with `cpio` and give the directory"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it and give the directory"),
    (0, b"PK\x05\x06", "an empty zip archive", None),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it and give the directory"),
    (0, b"!<arch>\n", "an ar archive or Debian package", None),
    (0, b"\xed\xab\xee\xdb", "an RPM package", None),
    (0, b"\x1f\x9d", "data packed by compress", "unpack it with `gzip -d`"),
    (0, b"LZIP", "data packed by lzip", "unpack it with `lzip -d`"),
    (0, b"\x04\x22\x4d\x18", "data packed by lz4", "unpack it with `lz4 -d`"),
    (0, b"\x5d\0\0", "data packed by lzma", "unpack it with `xz --format=lzma -d`"),
    (0, b"\x7fELF", "a program", None),
    (0, b"#!", "a script", None),
    (4086, b"SWAPSPACE2", "swap space", None),
)


def open_base(source: str, *, scratch: str) -> Base:
    """Open the directory, archive or image at `source`, or what the standard input gives when it is "-".

    `scratch` is a directory for what has to be unpacked first. Raises NoInputError when there is nothing or it may not
    be read, DataError when it is no base, and what the base itself raises.
    """
    if source != STDIN and os.path.isdir(source):
        from umldisk.build.bases.directory import DirectoryBase

        return DirectoryBase(source, scratch=scratch)
    archive = open_archive(source)
    try:
        return _open_by_contents(archive, scratch)
    except BaseException:
        archive.close()
        raise


def _open_by_contents(archive: Archive, scratch: str) -> Base:
    from umldisk.build.bases.image import START_BYTES, ImageBase, is_disk_image
    from umldisk.build.bases.tar import BLOCK_BYTES, TarBase, parse_header

    start = archive.peek(_PEEK_BYTES)
    if start[_USTAR_AT : _USTAR_AT + len(_USTAR)] == _USTAR:
        return TarBase(archive)
    if is_disk_image(start[:START_BYTES]):
        return ImageBase(archive.source, scratch=scratch, archive=archive)
    if refusal := _refusal(start, archive):
        raise refusal
    try:
        parse_header(start[:BLOCK_BYTES].ljust(BLOCK_BYTES))
    except DataError as error:
        raise _not_a_base(archive, "data of an unknown kind") from error
    return TarBase(archive)


def _refusal(start: bytes, archive: Archive) -> DataError | None:
    """Return the error for a file that is known to be something else."""
    if not start:
        return _not_a_base(archive, "nothing")
    if not any(start):
        return _not_a_base(archive, "zeros")
    if inner := detect_compression(start):
        return _not_a_base(archive, f"{inner} data inside {archive.compression} data", "unpack it once")
    for offset, magic, name, hint in _OTHERS:
        if start.startswith(magic, offset):
            return _not_a_base(archive, name, hint)
    return None


def _not_a_base(archive: Archive, found: str, hint: str | None = None) -> DataError:
    inside = f" in {archive.compression} data" if archive.compression and "inside" not in found else ""
    return DataError(
        "not a base",
        where=archive.name,
        expected="a tar archive, an ext2, ext3 or ext4 image (both also packed by gz, bz2, xz or zst) or a directory",
        found=found + inside,
        hint=hint,
    )
