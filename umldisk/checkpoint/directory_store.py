"""A store on a directory: every key is a file.

    STORE/chunks/3fa1/3fa1….cacnk     as in `store`; STORE/chunks is what casync calls --store
    STORE/damaged/…  STORE/guests/NAME/…
    STORE/locks/…                     see `directory_locks`
    STORE/staging/…                   chunks on their way, see `pending`

Chunks are made durable together, by `flush`; indexes and records, of which there is one a night, each at once. Whatever
lies here and is no key of a store is neither listed nor touched. Permissions are those of `directory_place`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

from umldisk.checkpoint import directory_locks, pending
from umldisk.checkpoint.directory_place import Place
from umldisk.checkpoint.keys import is_chunk, is_key, require_key
from umldisk.checkpoint.store import CHUNKS, DAMAGED, GUESTS, Listed, aside_key, chunk_key
from umldisk.errors import BusyError, CannotCreateError, NoInputError, StorageError
from umldisk.system.staging import staged, sync_directory
from umldisk.system.swapping import explained

_MISSING = (FileNotFoundError, NotADirectoryError)


class DirectoryStore:
    """A store on the directory `location`; see `store.Store` for what every method promises."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._place = Place(os.path.abspath(location))
        self._pending = pending.Pending(self._place)

    @property
    def location(self) -> str:
        """The directory, as it was given."""
        return self._location

    # -- reading --------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes:
        """Return what is stored, also what is not durable yet; raises NoInputError when there is nothing."""
        waiting = self._pending.path(require_key(key))
        if waiting is not None:
            with contextlib.suppress(NoInputError):  # it was put in place just now
                return _read(waiting)
        return _read(self._path(key))

    def exists(self, key: str) -> bool:
        """Whether there is something under `key`; it costs one question to the kernel, 4 µs."""
        path = self._path(key)
        if self._pending.path(key) is not None:
            return True
        with explained("look at", path):
            try:
                return stat.S_ISREG(os.stat(path).st_mode)
            except _MISSING:
                return False

    def list(self, prefix: str) -> Iterator[Listed]:
        """Yield every key that begins with `prefix`, in order."""
        for top in (CHUNKS, DAMAGED, GUESTS):
            if top.startswith(prefix) or prefix.startswith(top):
                yield from self._walk(top, prefix)

    def _walk(self, above: str, prefix: str) -> Iterator[Listed]:
        for key, entry in self._entries(above):
            if key.endswith("/"):
                if key.startswith(prefix) or prefix.startswith(key):
                    yield from self._walk(key, prefix)
            elif key.startswith(prefix) and is_key(key) and (status := _status(entry)):
                yield Listed(key, status.st_size)

    def _entries(self, above: str) -> Sequence[tuple[str, os.DirEntry[str]]]:
        """Return what lies in a directory in the order of keys: `a-b/` before `a/`."""
        path = self._place.path(above)
        with explained("list", path := self._place.path(above)):
            try:
                with os.scandir(path) as found:
                    return sorted(
                        ((above + entry.name + "/" * entry.is_dir(), entry) for entry in found),
                        key=lambda pair: pair[0],
                    )
            except _MISSING:
                return []

    # -- writing --------------------------------------------------------------------------------------------------

    def put(self, key: str, data: bytes) -> None:
        """Store `data`, replacing what was there; it is durable after the next `flush`, or when this is not a chunk."""
        path = self._path(key)
        if is_chunk(key):
            self._pending.add(key, data)
            return
        try:
            self._put_durably(path, data, replace=True)
        except CannotCreateError as error:
            raise StorageError(error.what, where=path) from error

    def put_new(self, key: str, data: bytes) -> None:
        """Store `data` durably; raises BusyError when the key is there already with other bytes."""
        path = self._path(key)
        try:
            self._put_durably(path, data, replace=False)
        except CannotCreateError as error:
            if not self.exists(key):
                raise StorageError(error.what, where=path) from error
            if self.get(key) != data:
                raise BusyError("somebody else has stored this meanwhile", where=path) from None
            with explained("sync", path):  # its name may not be durable yet
                sync_directory(os.path.dirname(path))

    def flush(self) -> None:
        """Make every chunk that was put durable; after a failure no chunk can be added by this object any more."""
        self._pending.publish()

    def set_aside(self, name: bytes) -> str:
        """Move a chunk, unread, to `aside_key`, durably, and return that; raises NoInputError when there is none."""
        key, place = chunk_key(name), aside_key(name)
        self._place.make_directory(os.path.dirname(self._path(place)))
        with explained("set aside", self._path(key)):
            try:
                os.rename(self._path(key), self._path(place))
            except _MISSING as error:
                raise NoInputError("the store has no such file", where=self._path(key)) from error
            for moved in (place, key):
                sync_directory(os.path.dirname(self._path(moved)))
        return place

    def delete(self, keys: Iterable[str]) -> None:
        """Remove keys; those that are missing already do not matter.

        That indexes are gone is durable at once, so that chunks which they named can be removed after that. A chunk
        may come back after a power cut, which nothing names then.
        """
        directories: set[str] = set()
        emptied: set[str] = set()
        for key in keys:
            path = self._path(key)
            self._pending.drop(key)
            with explained("remove", path), contextlib.suppress(*_MISSING):
                os.unlink(path)
            (emptied if is_chunk(key) else directories).add(os.path.dirname(path))
        for directory in directories:
            with explained("sync", directory), contextlib.suppress(*_MISSING):
                sync_directory(directory)
        for directory in emptied:
            with contextlib.suppress(OSError):  # most are not empty
                os.rmdir(directory)

    def _put_durably(self, path: str, data: bytes, *, replace: bool) -> None:
        self._place.make_directory(os.path.dirname(path))
        with staged(path, replace=replace) as stage, explained("write", path):
            self._place.dress(stage.fd)
            stage.write_at(0, data)

    # -- holding --------------------------------------------------------------------------------------------------

    def writing(self, guest: str, *, wait_seconds: float = 0) -> AbstractContextManager[None]:
        """Hold the store for adding to `guest`; others may add to other guests.

        Raises BusyError naming the process that has it.
        """
        return self._held(directory_locks.for_writing(guest), wait_seconds)

    def collecting(self, *, wait_seconds: float = 0) -> AbstractContextManager[None]:
        """Hold the store alone, for reclaiming. Raises BusyError naming a process while anybody writes."""
        return self._held(directory_locks.COLLECTING, wait_seconds)

    @contextlib.contextmanager
    def _held(self, wanted: tuple[directory_locks.Lock, ...], wait_seconds: float) -> Iterator[None]:
        with directory_locks.held(self._place, wanted, wait_seconds=wait_seconds):
            pending.sweep(self._place)
            yield

    def _path(self, key: str) -> str:
        return self._place.path(require_key(key))


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the metadata of a regular file, or None when it is none or was removed meanwhile."""
    with explained("look at", entry.path):
        try:
            status = entry.stat()
        except FileNotFoundError:
            return None
    return status if stat.S_ISREG(status.st_mode) else None


def _read(path: str) -> bytes:
    with explained("read", path):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except _MISSING as error:
            raise NoInputError("the store has no such file", where=path) from error
        try:
            size_bytes = os.fstat(fd).st_size
            data = os.pread(fd, size_bytes, 0)
            while len(data) < size_bytes and (more := os.pread(fd, size_bytes - len(data), len(data))):
                data += more
            return data
        finally:
            os.close(fd)
