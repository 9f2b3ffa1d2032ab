"""What the files of a guest depend on in its base, taken out of the tree once.

    Tree ──inspect──▶ BaseFacts ──render──▶ entries laid over the tree

Rendering sees these facts and the guest, never the tree: a hand-made `BaseFacts` is all that a test needs. A program
is there when its path, with every symlink followed inside the tree, ends at a file. A program that is busybox under
another name is not taken for the program it stands in for, where that matters (init, modprobe).

Left out on purpose: what a base has *installed* according to its package manager. A file that is there can be used; a
package that is listed may be for another root.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from umldisk.build.tree import FileType, Inode, Tree, follow, resolve

_TEXT_BYTES = 1 << 20
"""More than any file that is edited here has; what is larger is no such file."""


class InitSystem(Enum):
    """What the kernel runs as process 1."""

    BUSYBOX = "busybox"
    SYSVINIT = "sysvinit"
    SYSTEMD = "systemd"
    OTHER = "other"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class BaseFile:
    """A text of the base with what an edited one must keep; bytes that are no UTF-8 are surrogates."""

    text: str
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """What a base has; `os_id` is ID of os-release or "".

    `unit_directory` is where systemd's own units lie; `files` are the texts of the base that rendering edits or must
    know to exist; `ssh_host_keys` are paths of private keys; `apt_files` the further lists and deb822 files of APT;
    `resolv_conf_link` is where /etc/resolv.conf leads when it is a symlink.
    """

    init: InitSystem
    os_id: str = ""
    getty: str = "/sbin/getty"
    kmod: bool = False
    apt: bool = False
    udev: bool = False
    fsck: bool = False
    ip: bool = True
    ifupdown: bool = False
    networkd: bool = False
    resolved: bool = False
    ssh_keygen: str | None = None
    dbus: bool = False
    unit_directory: str = "/usr/lib/systemd/system"
    ssh_host_keys: tuple[str, ...] = ()
    apt_files: tuple[str, ...] = ()
    resolv_conf_link: str | None = None
    files: Mapping[str, BaseFile] = field(default_factory=dict)

    def text(self, path: str) -> str | None:
        """Return what the base has in `path`, or None when there is no such file."""
        known = self.files.get(path)
        return known.text if known else None


_READ = (
    *("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/securetty", "/etc/inittab", "/etc/profile", "/etc/shells"),
    *("/etc/machine-id", "/var/lib/dbus/machine-id", "/etc/apt/sources.list"),
)
_SYSTEM = ("/sbin", "/usr/sbin", "/bin", "/usr/bin")
_UNIT_DIRECTORIES = ("/usr/lib/systemd/system", "/lib/systemd/system")


def inspect(tree: Tree) -> BaseFacts:
    """Return the facts of the base in `tree`, whose contents must be readable.

    Raises DataError when symlinks that had to be followed lead in a circle.
    """
    files = {path: found for path in _READ if (found := _read(tree, path))}
    return BaseFacts(
        init=_init(tree),
        os_id=_os_id(tree),
        getty=_find(tree, "getty", "agetty") or "/sbin/getty",
        kmod=_is_real(tree, _find(tree, "modprobe")),
        apt=_find(tree, "apt-get") is not None,
        udev=_any_file(tree, ("/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd", "/sbin/udevd")),
        fsck=_find(tree, "fsck.ext4", "fsck.ext2") is not None and _find(tree, "fsck") is not None,
        ip=_find(tree, "ip") is not None,
        ifupdown=_find(tree, "ifup") is not None,
        networkd=_any_file(tree, ("/usr/lib/systemd/systemd-networkd", "/lib/systemd/systemd-networkd")),
        resolved=_any_file(tree, ("/usr/lib/systemd/systemd-resolved", "/lib/systemd/systemd-resolved")),
        ssh_keygen=_find(tree, "ssh-keygen"),
        dbus=_type(tree, "/var/lib/dbus") is FileType.DIRECTORY,
        unit_directory=_unit_directory(tree),
        ssh_host_keys=_host_keys(tree),
        apt_files=_apt_files(tree),
        resolv_conf_link=_link_target(tree, "/etc/resolv.conf"),
        files=files,
    )


def _at(tree: Tree, path: str) -> Inode | None:
    return tree.get(follow(tree, path))


def _type(tree: Tree, path: str) -> FileType | None:
    inode = _at(tree, path)
    return inode.type if inode else None


def _any_file(tree: Tree, paths: Iterable[str]) -> bool:
    return any(_type(tree, path) is FileType.FILE for path in paths)


def _find(tree: Tree, *names: str) -> str | None:
    """Return the first place where one of the programs is, names first tried first."""
    places = (posixpath.join(directory, name) for name in names for directory in _SYSTEM)
    return next((place for place in places if _type(tree, place) is FileType.FILE), None)


def _is_real(tree: Tree, path: str | None) -> bool:
    return path is not None and not _is_busybox(tree, path)


def _is_busybox(tree: Tree, path: str) -> bool:
    found = _at(tree, path)
    same = _at(tree, "/bin/busybox") or _at(tree, "/usr/bin/busybox")
    return found is not None and (found is same or posixpath.basename(follow(tree, path)) == "busybox")


def _init(tree: Tree) -> InitSystem:
    if _type(tree, "/sbin/init") is not FileType.FILE:
        return InitSystem.NONE
    if posixpath.basename(follow(tree, "/sbin/init")) == "systemd":
        return InitSystem.SYSTEMD
    if _find(tree, "openrc", "openrc-run"):
        return InitSystem.OTHER
    if _is_busybox(tree, "/sbin/init"):
        return InitSystem.BUSYBOX
    return InitSystem.SYSVINIT if _type(tree, "/etc/inittab") is FileType.FILE else InitSystem.OTHER


def _read(tree: Tree, path: str) -> BaseFile | None:
    inode = _at(tree, path)
    if inode is None or inode.type is not FileType.FILE or inode.contents.size_bytes > _TEXT_BYTES:
        return None
    data = bytearray(inode.contents.size_bytes)
    for offset, piece in inode.contents.pieces():
        data[offset : offset + len(piece)] = piece
    return BaseFile(data.decode("utf-8", "surrogateescape"), inode.mode, inode.uid, inode.gid, inode.xattrs)


def _os_id(tree: Tree) -> str:
    found = _read(tree, "/etc/os-release") or _read(tree, "/usr/lib/os-release")
    lines = found.text.splitlines() if found else []
    values = (line.removeprefix("ID=").strip("\"' ") for line in lines if line.startswith("ID="))
    return next(values, "")


def _unit_directory(tree: Tree) -> str:
    known = (path for path in _UNIT_DIRECTORIES if _type(tree, f"{path}/poweroff.target") is not None)
    return next(known, _UNIT_DIRECTORIES[0])


def _names(tree: Tree, directory: str) -> list[str]:
    """Return the names in `directory`, sorted."""
    inside = follow(tree, directory).rstrip("/") + "/"
    return sorted(path[len(inside) :] for path in tree if path.startswith(inside) and "/" not in path[len(inside) :])


def _host_keys(tree: Tree) -> tuple[str, ...]:
    names = _names(tree, "/etc/ssh")
    return tuple(f"/etc/ssh/{name}" for name in names if name.startswith("ssh_host_") and name.endswith("_key"))


def _apt_files(tree: Tree) -> tuple[str, ...]:
    directory = "/etc/apt/sources.list.d"
    return tuple(f"{directory}/{name}" for name in _names(tree, directory) if name.endswith((".list", ".sources")))


def _link_target(tree: Tree, path: str) -> str | None:
    inode = tree.get(resolve(tree, path))
    return inode.target if inode is not None and inode.type is FileType.SYMLINK else None
