"""Moving whole sets of files: directories as open descriptors, and what is done to names below them.

A build by root works in a directory that may belong to somebody else. So a directory is opened once, and everything
after that is done to one name directly below it, never through a symlink: whoever may rename things around it cannot
lead us elsewhere. Renaming is the only way in which a file gets a new place; nothing is copied, no time changes.

`Standing` is what a file or directory is to be: its mode exactly, whatever the umask, and its owner. It is given
through a descriptor, owner first: a mode never stands open to a former owner.

`Directory.clear` removes trees that somebody else designed (deep, without permissions, odd names). It does not go down
but lifts every directory that it meets to the top: it needs three descriptors however deep the tree is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from umldisk.errors import CannotCreateError, StorageError, from_os_error
from umldisk.system.staging import sync_directory

_DEFAULT_ACL = "system.posix_acl_default"
_OWNER_ALONE = struct.pack("<I" + 3 * "HHI", 2, 1, 7, 0xFFFFFFFF, 4, 0, 0xFFFFFFFF, 0x20, 0, 0xFFFFFFFF)
"""user::rwx, group::---, other::--- (the kernel's include/uapi/linux/posix_acl_xattr.h)."""

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Standing:
    """The permissions of a file or directory, and its owner; None leaves owner or group as they are."""

    mode: int
    uid: int | None = None
    gid: int | None = None

    @classmethod
    def of(cls, status: os.stat_result) -> Standing:
        """Return what `status` says."""
        return cls(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)

    def give(self, fd: int) -> None:
        """Give it to the open file or directory; raises OSError."""
        if self.uid is not None or self.gid is not None:
            os.fchown(fd, -1 if self.uid is None else self.uid, -1 if self.gid is None else self.gid)
        os.fchmod(fd, self.mode)


class Directory:
    """An open directory; a context manager that owns its descriptor. Every name is one directly below it."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)

    @property
    def standing(self) -> Standing:
        """Its permissions and owner as they are now."""
        return Standing.of(os.fstat(self.fd))

    def give(self, standing: Standing) -> None:
        """Change its owner and permissions."""
        with explained("change the owner or mode", self.path):
            standing.give(self.fd)

    def inside(self, name: str) -> str:
        """The path of `name` below it."""
        return os.path.join(self.path, name)

    def names(self) -> list[str]:
        """Return the names below it, sorted."""
        with explained("list", self.path):
            return sorted(os.listdir(self.fd))

    def mode_of(self, name: str) -> int | None:
        """Return type and permissions of `name` itself, or None when there is nothing."""
        with explained("look at", self.inside(name)):
            try:
                return os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_mode
            except FileNotFoundError:
                return None

    def has_directory(self, name: str) -> bool:
        """Whether `name` is a directory, not a symlink to one."""
        return stat.S_ISDIR(self.mode_of(name) or 0)

    def open(self, name: str) -> Directory:
        """Open the directory `name`; raises StorageError when it is missing or a symlink."""
        with explained("open", self.inside(name)):
            return Directory(self.inside(name), _open_below(self.fd, name))

    def make(self, name: str) -> Directory:
        """Make the directory `name`, for us alone whatever the umask, and open it.

        Raises CannotCreateError when there is something of that name or it cannot be made.
        """
        try:
            os.mkdir(name, 0o700, dir_fd=self.fd)
            made = Directory(self.inside(name), _open_below(self.fd, name))
        except OSError as error:
            raise CannotCreateError(f"cannot create: {error.strerror}", where=self.inside(name)) from error
        made.give(Standing(0o700))
        made.forget_default_acl()
        return made

    def make_new_files_private(self) -> bool:
        """Let files that anyone makes below it be for their owner alone, whatever mode is asked for.

        A default ACL does that (acl(5)); one that is there already is left as it is. Returns whether the file system
        knows ACLs.
        """
        try:
            os.setxattr(self.fd, _DEFAULT_ACL, _OWNER_ALONE, os.XATTR_CREATE)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.EOPNOTSUPP):
                raise from_os_error(error, "set an ACL", self.path) from error
            return error.errno == errno.EEXIST
        return True

    def forget_default_acl(self) -> None:
        """Let the umask decide about new files below it again."""
        try:
            os.removexattr(self.fd, _DEFAULT_ACL)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise from_os_error(error, "remove an ACL", self.path) from error

    def move(self, name: str, to: Directory, new_name: str | None = None) -> None:
        """Rename `name` to the same or a new name below `to`, replacing a file of that name."""
        with explained("move", self.inside(name)):
            os.rename(name, new_name or name, src_dir_fd=self.fd, dst_dir_fd=to.fd)

    def remove(self, name: str) -> None:
        """Remove the file `name`."""
        with explained("remove", self.inside(name)):
            os.unlink(name, dir_fd=self.fd)

    def clear(self, name: str) -> None:
        """Remove `name`, if it is there, with everything below it, permissions or none."""
        with explained("remove", self.inside(name)), contextlib.suppress(FileNotFoundError):
            if not _unlink(self.fd, name):
                _empty(self.fd, name)
                os.rmdir(name, dir_fd=self.fd)

    def dress(self, name: str, standing: Standing) -> None:
        """Change owner and permissions of the regular file `name`, durably.

        Raises StorageError when it is anything else, or has a second name.
        """
        with explained("change the owner or mode", self.inside(name)):
            fd = _open_below(self.fd, name, flags=os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                    raise StorageError("not a file of its own", where=self.inside(name))
                standing.give(fd)
                os.fsync(fd)
            finally:
                os.close(fd)

    def sync(self) -> None:
        """Make the names below it durable."""
        # By way of its descriptor, because the path may lead elsewhere by now; without /proc by the path.
        through = f"/proc/self/fd/{self.fd}"
        with explained("sync", self.path):
            sync_directory(through if os.path.isdir(through) else self.path)


def open_directory(path: str) -> Directory:
    """Open the directory `path`, which may be a symlink to one; raises CannotCreateError."""
    try:
        return Directory(path, os.open(path, _OPEN_DIRECTORY))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CannotCreateError(f"cannot open the directory: {reason}", where=path) from error


def make_directories(path: str, *, parents_at_least: int) -> None:
    """Make the directory `path` for us alone, and each missing one above it with at least these permissions.

    What exists is left as it is. Raises CannotCreateError.
    """
    missing = [path]
    while not os.path.lexists(parent := os.path.dirname(missing[-1])):
        missing.append(parent)
    try:
        for parent in reversed(missing[1:]):
            _make_one(parent, 0o755, at_least=parents_at_least)
        _make_one(path, 0o700, at_least=0o700)
    except OSError as error:
        raise CannotCreateError(f"cannot create: {error.strerror}", where=path) from error


def _make_one(path: str, mode: int, *, at_least: int) -> None:
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return
    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) | at_least)


@contextlib.contextmanager
def explained(doing: str, path: str) -> Iterator[None]:
    """Let an OSError become a StorageError that says what could not be done."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, doing, path) from error


def _open_below(above: int, name: str, *, flags: int = _OPEN_DIRECTORY) -> int:
    """Open one of our own; without permission to do so we, who are not root then, take it."""
    flags |= os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=above)
    except PermissionError:
        os.chmod(name, 0o700 if flags & os.O_DIRECTORY else 0o600, dir_fd=above)
        return os.open(name, flags, dir_fd=above)


def _unlink(above: int, name: str) -> bool:
    """Remove a file, or return False because it is a directory."""
    try:
        os.unlink(name, dir_fd=above)
    except IsADirectoryError:
        return False
    return True


def _empty(above: int, name: str) -> None:
    """Remove everything below the directory `name`."""
    while directories := _unlink_all(above, name):
        top = _open_to_change(above, name)
        try:
            for inner in directories:
                _lift(top, inner)
                os.rmdir(inner, dir_fd=top)
        finally:
            os.close(top)


def _unlink_all(above: int, name: str) -> list[str]:
    """Remove the files below the directory `name`, and return the directories that are left there.

    It is opened anew each time: btrfs shows through a descriptor only what was there when that was opened or rewound.
    """
    top = _open_to_change(above, name)
    try:
        return [inner for inner in os.listdir(top) if not _unlink(top, inner)]
    finally:
        os.close(top)


def _lift(top: int, name: str) -> None:
    """Remove the files below the directory `name`, and move its directories up beside it."""
    fd = _open_to_change(top, name)
    try:
        for inner in os.listdir(fd):
            if not _unlink(fd, inner):
                os.close(_open_to_change(fd, inner))  # to move a directory one must be able to write it
                os.rename(inner, secrets.token_hex(12), src_dir_fd=fd, dst_dir_fd=top)
    finally:
        os.close(fd)


def _open_to_change(above: int, name: str) -> int:
    fd = _open_below(above, name)
    if stat.S_IMODE(os.fstat(fd).st_mode) & 0o700 != 0o700:
        os.fchmod(fd, 0o700)
    return fd
