"""A tree of files with everything in it that a file system of a guest can hold.

    /  /var  /home  /srv    the same corners in each: names, modes, links, sparse files, attributes, devices, times
    /tmp /etc /usr          little: what a drive of its own and rendered files need

Root makes all of it. Anybody else makes what such a user can make and read again: no devices, owners, trusted
attributes or capabilities, and no file that its owner may not read. All is reached by bytes, whatever the locale, and
every time is fixed, so that two trees differ in the order of their directories at most.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tests.kit.rich_values import (
    CAPABILITY,
    CAPABILITY_OF_NAMESPACE,
    CORNERS,
    DEVICES,
    DIRECTORY_MODES,
    MODES,
    NAMES,
    NOT_STORED,
    OWNERS,
    PAGE,
    PAST_TIMES_NS,
    TARGETS,
    TIMES_NS,
    access_list,
    attribute_sets,
)

BULK_FILES = 50_000
HUGE_BYTES = (4 << 30) + 12_345
REPLACED = b"/etc/hostname"
"""A symlink of the tree that stands where every guest has a file of its own."""


class TreeMaker:
    """Makes trees; `privileged` is whether there may be what only root can make.

    With `backwards` the names of every directory come in the opposite order, where the file system keeps one. With
    `past` no time lies after 2009.
    """

    def __init__(self, *, privileged: bool, backwards: bool = False, past: bool = False) -> None:
        self._privileged = privileged
        self._backwards = backwards
        self._times_ns = PAST_TIMES_NS if past else TIMES_NS
        self._corners = CORNERS if privileged else (b"", b"var", b"home")

    def make(self, top: Path) -> None:
        """Make the whole tree, with `top` as its root directory, which must not exist."""
        root = os.fsencode(top)
        os.mkdir(root)
        for part in (b"etc", b"usr", b"var", b"home", b"srv", b"tmp", b"root"):
            os.mkdir(os.path.join(root, part))
        for part in self._corners:
            self._make_corner(os.path.join(root, part))
        _write(os.path.join(root, b"tmp", b"left behind"), b"t")
        os.symlink(b"/nowhere", root + REPLACED)
        (found,) = _directories(os.path.join(root, b"home"), b"lost+found")
        _write(os.path.join(found, b"#12345"), b"found once, on the drive that this comes from")
        os.link(os.path.join(root, b"groups-a", b"plain"), os.path.join(root, b"var", b"same-file-on-another-drive"))
        self._settle(root)

    def _make_corner(self, where: bytes) -> None:
        steps = [
            self._make_names,
            self._make_symlinks,
            self._make_links,
            self._make_sparse,
            self._make_modes,
            self._make_attributes,
        ]
        if self._privileged:
            steps += [self._make_devices, self._make_owners, self._make_capabilities]
        for step in reversed(steps) if self._backwards else steps:
            step(where)

    def _ordered(self, names: Iterator[bytes] | tuple[bytes, ...]) -> list[bytes]:
        ordered = list(names)
        return ordered[::-1] if self._backwards else ordered

    def _make_names(self, where: bytes) -> None:
        files, others = _directories(where, b"names", b"odd names")
        for name in self._ordered(NAMES):
            _write(os.path.join(files, name), name)
        for name in self._ordered(NAMES):
            path = os.path.join(others, name)
            match len(name) % 4:
                case 0:
                    os.mkdir(path)
                    _write(os.path.join(path, b"inside"), b"")
                case 1:
                    os.mkfifo(path)
                case 2:
                    os.mknod(path, stat.S_IFSOCK | 0o644)
                case _:
                    os.symlink(name, path)
        deep = where
        for letter in b"abcde":
            deep = os.path.join(deep, bytes([letter]) * 255)
            os.mkdir(deep)
        _write(os.path.join(deep, b"bottom"), b"deep")
        (empty,) = _directories(where, b"empty")
        _write(os.path.join(empty, b"file"), b"")

    def _make_symlinks(self, where: bytes) -> None:
        (links,) = _directories(where, b"symlinks")
        for name, target in sorted(((b"%02d" % place, target) for place, target in enumerate(TARGETS)), reverse=True):
            os.symlink(target, os.path.join(links, name))

    def _make_links(self, where: bytes) -> None:
        first, second = _directories(where, b"groups-a", b"groups-b")
        _write(os.path.join(first, b"plain"), b"many names")
        os.symlink(b"groups", os.path.join(first, b"symlink"))
        os.mkfifo(os.path.join(first, b"fifo"))
        os.mknod(os.path.join(first, b"socket"), stat.S_IFSOCK | 0o600)
        if self._privileged:
            os.mknod(os.path.join(first, b"device"), stat.S_IFCHR | 0o600, os.makedev(300, 5))
        for name in self._ordered(tuple(sorted(os.listdir(first)))):
            for place, other in ((first, b"other " + name), (second, name), (second, b"\xff " + name)):
                os.link(os.path.join(first, name), os.path.join(place, other), follow_symlinks=False)

    def _make_sparse(self, where: bytes) -> None:
        (sparse,) = _directories(where, b"sparse")
        chunk = bytes(range(1, 256)) * 20
        shapes: dict[bytes, tuple[int, tuple[int, ...]]] = {
            b"hole first": (30 * PAGE, (25 * PAGE,)),
            b"hole between": (40 * PAGE, (0, 30 * PAGE)),
            b"hole last": (1 << 20, (0,)),
            b"hole only": ((1 << 20) + 1, ()),
            b"odd places": (500_001, (4_097, 200_000, 494_000)),
            b"many": (301 * PAGE, tuple(range(0, 299 * PAGE, 4 * PAGE))),
        }
        for name, (size, offsets) in shapes.items():
            _write_sparse(os.path.join(sparse, name), size, [(offset, chunk) for offset in offsets])
        _write(os.path.join(sparse, b"written zeros"), b"a" + bytes(20 * PAGE) + b"z")
        for size in (1, PAGE - 1, PAGE, PAGE + 1, (1 << 18) + 3):
            _write(os.path.join(sparse, b"%d" % size), bytes(range(251)) * (size // 251) + b"e" * (size % 251))

    def _make_modes(self, where: bytes) -> None:
        (modes,) = _directories(where, b"modes")
        for mode in MODES:
            if self._privileged or mode & 0o400:
                path = os.path.join(modes, b"f%o" % mode)
                _write(path, b"%o" % mode)
                os.chmod(path, mode)
        for mode in DIRECTORY_MODES:
            if self._privileged or mode & 0o500 == 0o500:
                path = os.path.join(modes, b"d%o" % mode)
                os.mkdir(path)
                os.chmod(path, mode)

    def _make_owners(self, where: bytes) -> None:
        (owners,) = _directories(where, b"owners")
        for uid, gid in OWNERS:
            path = os.path.join(owners, b"%d" % uid)
            _write(path, b"")
            os.mkdir(path + b".d")
            os.symlink(b"owned", path + b".l")
            os.mkfifo(path + b".p")
            for owned in (path, path + b".d", path + b".l", path + b".p"):
                os.chown(owned, uid, gid, follow_symlinks=False)
            os.chmod(path, 0o6755)

    def _make_devices(self, where: bytes) -> None:
        (devices,) = _directories(where, b"devices")
        for major, minor in DEVICES:
            for kind, letter in ((stat.S_IFCHR, b"c"), (stat.S_IFBLK, b"b")):
                path = os.path.join(devices, b"%s %d-%d" % (letter, major, minor))
                os.mknod(path, kind | 0o640, os.makedev(major, minor))
                os.chmod(path, 0o1642)
        for name in self._ordered(NAMES):
            if b"\n" not in name and b"\r" not in name:
                os.mknod(os.path.join(devices, name), stat.S_IFCHR | 0o600, os.makedev(1, 7))

    def _make_attributes(self, where: bytes) -> None:
        (attributes,) = _directories(where, b"attributes")
        file, inner = os.path.join(attributes, b"file"), os.path.join(attributes, b"directory")
        for name, pairs in attribute_sets().items():
            _write(os.path.join(attributes, name), name)
            for key, value in pairs:
                os.setxattr(os.path.join(attributes, name), key, value)
        _write(file, b"")
        os.mkdir(inner)
        for path in (file, inner):
            os.setxattr(path, "user.of", path[-4:])
            os.setxattr(path, "system.posix_acl_access", access_list(7, [(70_000, 7), (3, 1)], [(70_001, 5)], 4, 5, 0))
        os.setxattr(inner, "system.posix_acl_default", access_list(7, [(0xFFFF_FFFE, 0)], [], 5, 7, 4))
        _write(os.path.join(inner, b"inherited"), b"")
        os.mkdir(os.path.join(inner, b"inherited.d"))
        minimal = os.path.join(attributes, b"minimal default")
        os.mkdir(minimal)
        os.setxattr(minimal, "system.posix_acl_default", access_list(7, [], [], 5, None, 1))
        if self._privileged:
            self._make_trusted(attributes)

    def _make_trusted(self, attributes: bytes) -> None:
        for kind in (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
            path = os.path.join(attributes, b"special-%o" % kind)
            os.mknod(path, kind | 0o600, os.makedev(7, 0))
            os.setxattr(path, "trusted.kind", b"%o" % kind)
        for target in (b"short", b"long" * 100):
            path = os.path.join(attributes, b"link-%d" % len(target))
            os.symlink(target, path)
            os.setxattr(path, "trusted.link", b"l\0l", follow_symlinks=False)
            os.setxattr(path, "trusted.more", b"m" * 1500, follow_symlinks=False)
        os.setxattr(os.path.join(attributes, b"file"), "trusted.overlay.opaque", b"y")
        os.setxattr(attributes, "trusted.large", b"\0\xff" * 900)

    def _make_capabilities(self, where: bytes) -> None:
        (capable,) = _directories(where, b"capabilities")
        for name, value in ((b"ping", CAPABILITY), (b"inner", CAPABILITY_OF_NAMESPACE)):
            path = os.path.join(capable, name)
            _write(path, b"#!/bin/true\n")
            os.chmod(path, 0o755)
            os.setxattr(path, "security.capability", value)
        os.chmod(os.path.join(capable, b"ping"), 0o4755)
        os.setxattr(os.path.join(capable, b"ping"), "security.capability", CAPABILITY)

    def _settle(self, root: bytes) -> None:
        """Give every inode its time, a directory after what is in it; each of the times comes at every depth."""
        for path in _bottom_up(root):
            inside = os.path.relpath(path, root)
            number = int.from_bytes(hashlib.sha256(self._first_name(root, inside)).digest()[:4], "big")
            time_ns = self._times_ns[number % len(self._times_ns)]
            os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)

    @staticmethod
    def _first_name(root: bytes, inside: bytes) -> bytes:
        """Return one name for all names of an inode, so that its time does not depend on which came last."""
        if b"groups-" not in inside and b"same-file" not in inside:
            return inside
        return b"group %o" % stat.S_IFMT(os.lstat(os.path.join(root, inside)).st_mode)


def add_bulk(top: Path, count: int = BULK_FILES) -> None:
    """Add `count` small files, 500 a directory, below /usr and /home; the times of files are small numbers."""
    for first in range(0, count, 500):
        place = os.path.join(top, "home" if first % 1500 else "usr", f"bulk-{first:05d}")
        os.makedirs(place)
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for number in range(first, min(first + 500, count)):
                _write_below(directory, b"%05d" % number, b"%d\n" % number * (number % 40))
        finally:
            os.close(directory)


def _write_below(directory: int, name: bytes, data: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=directory)
    try:
        os.write(fd, data)
        os.utime(fd, ns=(int(name), int(name)))
    finally:
        os.close(fd)


def add_huge(top: Path) -> None:
    """Add a sparse file of more than 4 GiB with data at its start, across 4 GiB, and at its end."""
    os.makedirs(top / "usr", exist_ok=True)
    path = os.path.join(os.fsencode(top), b"usr", b"huge")
    _write_sparse(path, HUGE_BYTES, [(0, b"start"), ((4 << 30) - 3, b"across"), (HUGE_BYTES - 3, b"end")])
    os.utime(path, ns=(5, 5))


def can_hold_tree(directory: Path, *, privileged: bool) -> bool:
    """Whether the file system of `directory` takes the attributes and devices of a tree."""
    probe = os.path.join(os.fsencode(directory), b"probe")
    _write(probe, b"")
    try:
        os.setxattr(probe, "user.probe", b"p" * 3000)
        os.setxattr(probe, "system.posix_acl_access", access_list(6, [(1, 4)], [], 4, 4, 4))
        if privileged:
            os.setxattr(probe, "trusted.probe", b"p")
            os.setxattr(probe, "security.capability", CAPABILITY)
            os.mknod(probe + b".device", stat.S_IFCHR, os.makedev(1, 3))
            os.unlink(probe + b".device")
    except OSError as error:
        if error.errno in NOT_STORED:
            return False
        raise
    finally:
        os.unlink(probe)
    return True


def _directories(where: bytes, *names: bytes) -> list[bytes]:
    made = [os.path.join(where, name) for name in names]
    for path in made:
        os.mkdir(path)
    return made


def _write(path: bytes, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)


def _write_sparse(path: bytes, size_bytes: int, pieces: list[tuple[int, bytes]]) -> None:
    with open(path, "xb") as file:
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
        file.truncate(size_bytes)


def _bottom_up(root: bytes) -> Iterator[bytes]:
    for directory, _inner, files in os.walk(root, topdown=False):
        yield from (os.path.join(directory, name) for name in files)
        yield from (os.path.join(directory, name) for name in _inner if os.path.islink(os.path.join(directory, name)))
        yield directory
