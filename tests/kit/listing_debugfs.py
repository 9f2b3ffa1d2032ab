"""What is on a disk, file by file, as debugfs shows it; nothing is mounted, and nobody has to be root.

`ls -p` gives names, `stat` the inodes, `ea_get` the values of attributes. The contents of a file are read from the
image itself, at the blocks that `stat` names. See `tests.kit.listing` for the rows.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from tests.kit.listing import (
    CHUNK_BYTES,
    PAGE_BYTES,
    Contents,
    Listing,
    Row,
    digest_pages,
    list_mounted,
    normal_xattr,
    with_contents,
    with_links,
)
from tests.kit.peers import is_present

_TIMEOUT_SECONDS = 120
_ENVIRONMENT = {"PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]), "LC_ALL": "C"}


def list_disk(image: Path) -> Listing:
    """List the file system in `image` through the kernel where this machine can mount it, otherwise with debugfs."""
    return list_mounted(image) if is_present("ext4") else list_with_debugfs(image)


def list_with_debugfs(image: Path) -> Listing:
    """List the file system in `image` as debugfs shows it, contents from the blocks that it names."""
    names = _find_names(image)
    said = _stat_all(image, sorted(set(names.values())))
    values = _read_values(image, {number: _xattr_names(text) for number, text in said.items()})
    block_bytes = _block_bytes(image)
    with image.open("rb") as disk:
        fd = disk.fileno()
        rows = {number: _parse(text, values[number], fd, block_bytes) for number, text in said.items()}
    return with_links({path: rows[number] for path, number in names.items()}, names)


def inode_times(image: Path, numbers: Iterable[int]) -> dict[int, dict[str, int]]:
    """Return ctime, atime, mtime and crtime, in nanoseconds since 1970, of inodes, as debugfs shows their fields."""
    return {number: _times(text) for number, text in _stat_all(image, sorted(numbers)).items()}


def inode_of_paths(image: Path) -> dict[bytes, int]:
    """Return the number of every path's inode, as debugfs shows it."""
    return _find_names(image)


def run_debugfs(image: Path, commands: Iterable[bytes], directory: str | None = None) -> list[bytes]:
    """Run commands, read-only, and return what debugfs prints for each of them."""
    script = list(commands)
    done = subprocess.run(
        ["debugfs", "-f", "-", os.path.abspath(image)],
        input=b"".join(command + b"\n" for command in script),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        cwd=directory,
        env=_ENVIRONMENT,
        timeout=_TIMEOUT_SECONDS,
    )
    outputs, place = [], 0
    for command, following in zip(script, [*script[1:], None], strict=True):
        start = done.stdout.index(b"debugfs: " + command + b"\n", place) + len(command) + 10
        place = len(done.stdout) if following is None else done.stdout.index(b"debugfs: " + following + b"\n", start)
        outputs.append(done.stdout[start:place])
    return outputs


_ENTRY = re.compile(rb"/(\d+)/(\d{6})/-?\d+/-?\d+/([^/]*)/\d*/\n", re.DOTALL)


def _find_names(image: Path) -> dict[bytes, int]:
    """Go down from the root, a level of directories at a time."""
    found, level = {b"/": 2}, {b"/": 2}
    while level:
        following: dict[bytes, int] = {}
        shown = run_debugfs(image, (b"ls -p <%d>" % number for number in level.values()))
        for directory, text in zip(level, shown, strict=True):
            for number, mode, name in _ENTRY.findall(text):
                if number != b"0" and name not in (b".", b".."):
                    path = directory.rstrip(b"/") + b"/" + name
                    found[path] = int(number)
                    if stat.S_ISDIR(int(mode, 8)):
                        following[path] = int(number)
        level = following
    return found


def _stat_all(image: Path, numbers: list[int]) -> dict[int, bytes]:
    return dict(zip(numbers, run_debugfs(image, (b"stat <%d>" % number for number in numbers)), strict=True))


_XATTR = re.compile(rb"^  (.+) \((\d+)\)(?: = .*)?$", re.MULTILINE)


def _xattr_names(text: bytes) -> list[bytes]:
    _head, _title, listed = text.partition(b"\nExtended attributes:\n")
    rows = listed.split(b"\nInode checksum:")[0].split(b"\nEXTENTS:")[0].split(b"\nBLOCKS:")[0]
    return [_xattr_name(match[1]) for match in _XATTR.finditer(rows)]


def _xattr_name(shown: bytes) -> bytes:
    """Take back how debugfs shows a name: quotes and backslashes with a backslash, odd bytes by all in hexadecimal."""
    if re.fullmatch(rb"(?:[0-9a-f]{2} )+", shown):
        return bytes.fromhex(shown.decode())
    return re.sub(rb"\\(.)", rb"\1", shown)


def _read_values(image: Path, names: dict[int, list[bytes]]) -> dict[int, tuple[tuple[bytes, bytes], ...]]:
    """Let debugfs write every value to a file of its own."""
    wanted = [(number, name) for number, listed in names.items() for name in listed]
    found: dict[int, tuple[tuple[bytes, bytes], ...]] = dict.fromkeys(names, ())
    with tempfile.TemporaryDirectory(prefix="umldisk-listing-") as directory:
        quoted = (name.replace(b'"', b'""') for _, name in wanted)
        pairs = zip(wanted, quoted, strict=True)
        commands = (b'ea_get -f %d <%d> "%s"' % (at, pair[0][0], pair[1]) for at, pair in enumerate(pairs))
        if wanted:
            run_debugfs(image, commands, directory)
        for at, (number, name) in enumerate(wanted):
            found[number] += (normal_xattr(name, Path(directory, str(at)).read_bytes()),)
    return {number: tuple(sorted(pairs)) for number, pairs in found.items()}


def _block_bytes(image: Path) -> int:
    done = subprocess.run(["dumpe2fs", "-h", str(image)], capture_output=True, check=True, env=_ENVIRONMENT)
    return int(_first(rb"^Block size: +(\d+)", done.stdout))


_KINDS = {
    b"FIFO": stat.S_IFIFO,
    b"character special": stat.S_IFCHR,
    b"directory": stat.S_IFDIR,
    b"block special": stat.S_IFBLK,
    b"regular": stat.S_IFREG,
    b"symlink": stat.S_IFLNK,
    b"socket": stat.S_IFSOCK,
}
_TIME = re.compile(rb"^ ?([acm]|cr)time: 0x([0-9a-f]{8})(?::([0-9a-f]{8}))?", re.MULTILINE)
_RANGE = re.compile(rb"\((\d+)(?:-(\d+))?\):(\d+)")


def _parse(text: bytes, xattrs: tuple[tuple[bytes, bytes], ...], fd: int, block_bytes: int) -> Row:
    kind = _KINDS[_first(rb"Type: (.*?) +Mode:", text)]
    size = int(_first(rb"Size: (\d+)\n", text))
    row = Row(
        kind | int(_first(rb"Mode: +(\d+)", text), 8),
        int(_first(rb"User: +(-?\d+)", text)) & 0xFFFF_FFFF,
        int(_first(rb"Group: +(-?\d+)", text)) & 0xFFFF_FFFF,
        _times(text)["m"],
        b"",
        _parse_device(text) if kind in (stat.S_IFCHR, stat.S_IFBLK) else None,
        xattrs=xattrs,
    )
    if kind == stat.S_IFLNK:
        return replace(row, target=_parse_target(text, size, fd, block_bytes))
    return with_contents(row, _read_blocks(text, size, fd, block_bytes)) if kind == stat.S_IFREG else row


def _parse_device(text: bytes) -> tuple[int, int]:
    return int(_first(rb"major/minor number: (\d+):", text)), int(_first(rb"major/minor number: \d+:(\d+)", text))


def _parse_target(text: bytes, size: int, fd: int, block_bytes: int) -> bytes:
    head, fast, quoted = text.partition(b'\nFast link dest: "')
    if fast:
        return quoted[:size]
    return b"".join(data for _, data in _chunks(head, size, fd, block_bytes))


def _times(text: bytes) -> dict[str, int]:
    """Put the fields together as the kernel does (ext4_decode_extra_time): low half signed, two bits carry on."""
    times = {}
    for name, low, extra in _TIME.findall(text):
        seconds, more = int(low, 16), int(extra or b"0", 16)
        seconds = (seconds - (1 << 32) if seconds >> 31 else seconds) + ((more & 3) << 32)
        times[name.decode()] = seconds * 1_000_000_000 + (more >> 2)
    return times


def _read_blocks(text: bytes, size: int, fd: int, block_bytes: int) -> Contents:
    """Take pages together from blocks that may be smaller than a page."""
    pages: dict[int, bytearray] = {}
    for offset, data in _chunks(text, size, fd, block_bytes):
        for start in range(0, len(data), block_bytes):
            part = data[start : start + block_bytes]
            number, inside = divmod(offset + start, PAGE_BYTES)
            length = min(PAGE_BYTES, size - number * PAGE_BYTES)
            page = pages.setdefault(number, bytearray(length))
            page[inside : inside + len(part)] = part
    return digest_pages(((number * PAGE_BYTES, bytes(pages[number])) for number in sorted(pages)), size)


def _chunks(text: bytes, size: int, fd: int, block_bytes: int) -> Iterator[tuple[int, bytes]]:
    listed = re.split(rb"\n(?:EXTENTS|BLOCKS):\n", text, maxsplit=1)
    for first, last, physical in _RANGE.findall(listed[1] if len(listed) == 2 else b""):
        offset, end = int(first) * block_bytes, (int(last or first) + 1) * block_bytes
        for place in range(offset, min(end, size), CHUNK_BYTES):
            length = min(CHUNK_BYTES, end - place, size - place)
            yield place, os.pread(fd, length, int(physical) * block_bytes + place - offset)


def _first(pattern: bytes, text: bytes) -> bytes:
    found = re.search(pattern, text, re.MULTILINE)
    assert found is not None, f"debugfs says nothing like {pattern!r}: {text[:300]!r}"
    return found[1]
