"""Chunks on their way into an object store: several at once, never more than a few in memory.

The first that fails, after the retries, ends it: nothing more is taken, and `wait` says why, so that no index is
written that names a chunk which did not arrive.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from umldisk.errors import StorageError, UmldiskError

_THREADS = 16
_AT_ONCE = 32


class Uploads:
    """Uploads that run; `send` stores one object. Safe to use from several threads."""

    def __init__(self, send: Callable[[str, bytes], None]) -> None:
        self._send = send
        self._pool: ThreadPoolExecutor | None = None
        self._room = threading.BoundedSemaphore(_AT_ONCE)
        self._lock = threading.Lock()
        self._running: dict[str, tuple[bytes, Future[None]]] = {}
        self._failure: UmldiskError | None = None

    def data(self, key: str) -> bytes | None:
        """Return what is on its way under `key`, or None."""
        found = self._running.get(key)
        return found[0] if found else None

    def add(self, key: str, data: bytes) -> None:
        """Send a chunk; waits while too many are on their way. Raises StorageError when one failed."""
        self._refuse_after_failure()
        self._room.acquire()
        with self._lock:
            if key in self._running:
                self._room.release()
                return
            self._pool = self._pool or ThreadPoolExecutor(_THREADS, thread_name_prefix="upload")
            self._running[key] = data, self._pool.submit(self._run, key, data)

    def wait(self) -> None:
        """Wait until all that was added has arrived; raises StorageError when one failed, then and ever after."""
        with self._lock:
            waiting = [future for _data, future in self._running.values()]
        for future in waiting:
            future.result()
        self._refuse_after_failure()

    def _run(self, key: str, data: bytes) -> None:
        try:
            if self._failure is None:
                self._send(key, data)
        except UmldiskError as error:
            self._failure = self._failure or error
        finally:
            with self._lock:
                del self._running[key]
            self._room.release()

    def _refuse_after_failure(self) -> None:
        if self._failure is not None:
            raise StorageError(self._failure.what, where=self._failure.where, hint=self._failure.hint)
