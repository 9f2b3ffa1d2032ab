"""The directory that a store lies in, and what is made below it: with its mode and its owner, whatever the umask.

What a guest's /var holds is nobody else's business: the directory is made for its owner alone. Its mode and owner as
they are found hold for everything below it, so that an administrator who opens a store to a group does so once, and
what root adds to a user's store is still that user's. Whoever may write there is trusted with the whole store.

The directory is made at the first write, the one above it must be there: a store inside a place to be mounted that is
not mounted is not begun on another disk by mistake.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import weakref

from umldisk.errors import StorageError
from umldisk.system.staging import sync_directory
from umldisk.system.swapping import explained
from umldisk.system.syncing import sync_file_system

_OWNER_ALONE = 0o700


class Place:
    """The directory `root`, absolute; safe to use from several threads."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._standing: os.stat_result | None = None

    def path(self, name: str) -> str:
        """Where `name` lies below it."""
        return os.path.join(self.root, name)

    def open(self) -> os.stat_result:
        """Make the directory if need be and return its mode and owner; raises StorageError.

        From here on it is kept open, so that `sync` tells of every write that fails after this.
        """
        with self._lock:
            if self._standing is None:
                self._fd = _open_or_make(self.root)
                weakref.finalize(self, os.close, self._fd)
                self._standing = os.fstat(self._fd)
            return self._standing

    def sync(self) -> None:
        """Make everything below it durable; raises StorageError."""
        self.open()
        assert self._fd is not None
        sync_file_system(self._fd, self.root)

    def create_file(self, path: str) -> int:
        """Make and open a file that must not be there; raises OSError."""
        mode = self.open().st_mode & 0o666
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            self.dress(fd)
        except OSError:
            os.close(fd)
            raise
        return fd

    def make_directory(self, path: str, *, sync: bool = True) -> None:
        """Make a directory and those between it and the store unless they are there; raises StorageError."""
        self.open()
        with explained("make a directory", path):
            try:
                os.mkdir(path, _OWNER_ALONE)
            except FileExistsError:
                return
            except FileNotFoundError:
                if os.path.dirname(path) == self.root:
                    raise
                self.make_directory(os.path.dirname(path), sync=sync)
                self.make_directory(path, sync=sync)
                return
            self._dress_directory(path)
            if sync:
                sync_directory(os.path.dirname(path))

    def _dress_directory(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self.dress(fd)
        finally:
            os.close(fd)

    def dress(self, fd: int) -> None:
        """Give a new file or directory the store's owner, where we may, and its permissions; raises OSError."""
        found, wanted = os.fstat(fd), self.open()
        if os.geteuid() == 0 and (found.st_uid, found.st_gid) != (wanted.st_uid, wanted.st_gid):
            os.fchown(fd, wanted.st_uid, wanted.st_gid)
        mode = stat.S_IMODE(wanted.st_mode) & (0o7777 if stat.S_ISDIR(found.st_mode) else 0o666)
        if stat.S_IMODE(found.st_mode) != mode:
            os.fchmod(fd, mode)


def _open_or_make(root: str) -> int:
    with explained("open the store", root):
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(root, _OWNER_ALONE)
                sync_directory(os.path.dirname(root))
        except FileNotFoundError as error:
            hint = "make the directory above the store, or mount it"
            raise StorageError("the store has no place to be made in", where=root, hint=hint) from error
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
