"""A store in a bucket of any S3-compatible service, with the keys of `store` below a prefix.

    s3://BUCKET/PREFIX/chunks/…  guests/…     as everywhere
    s3://BUCKET/PREFIX/leases/…               who holds the store, see `leases`

An object appears whole and is durable when the service acknowledges it, so nothing has to be synced: `flush` waits for
the uploads that run. Requests are retried by the library (connections that cannot be made or break, answers 5xx) for
up to a minute (or AWS_MAX_ATTEMPTS times in all); then the reason is told in one line.

`put_new` looks, and then puts under the condition that nothing is there. Services that know no conditions ignore it or
refuse it; there the lease alone keeps two writers of one guest apart, as it does everywhere.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError
from obstore.store import S3Store

from umldisk.checkpoint import leases
from umldisk.checkpoint.aws import Access, find_access
from umldisk.checkpoint.keys import is_chunk, is_key, require_key
from umldisk.checkpoint.object_errors import explain
from umldisk.checkpoint.presence import Presence
from umldisk.checkpoint.store import CHUNKS, Listed, aside_key, chunk_key
from umldisk.checkpoint.uploads import Uploads
from umldisk.errors import BusyError, NoInputError, StorageError, UsageError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

_SCHEME = "s3://"
_PAGE = 1000
_RETRY_SECONDS = 60
_REQUEST_SECONDS = 30


class ObjectStore:
    """A store at `location`, s3://BUCKET/PREFIX; see `store.Store` for what every method promises.

    Raises UsageError when the location or the settings of the AWS tools make no sense.
    """

    def __init__(
        self, location: str, *, environment: Mapping[str, str] | None = None, times: leases.Times | None = None
    ) -> None:
        self._location = location
        self._bucket = _Bucket(location, find_access(os.environ if environment is None else environment))
        self._times = times or leases.Times()
        self._uploads = Uploads(self._bucket.put)
        self._presence: Presence | None = None
        self._holds: list[leases.Hold] = []

    @property
    def location(self) -> str:
        """The location, as it was given."""
        return self._location

    # -- reading --------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes:
        """Return what is stored, also what is on its way; raises NoInputError when there is nothing."""
        data = self._uploads.data(require_key(key))
        return self._bucket.get(key) if data is None else data

    def exists(self, key: str) -> bool:
        """Whether there is something under `key`; cheap for chunks while the store is held for writing."""
        if self._uploads.data(require_key(key)) is not None:
            return True
        presence = self._presence
        return self._bucket.exists(key) if presence is None or not is_chunk(key) else presence.has(key)

    def list(self, prefix: str) -> Iterator[Listed]:
        """Yield every key that begins with `prefix`, in order."""
        found = itertools.chain.from_iterable(self._bucket.pages(prefix))
        yield from sorted((one for one in found if is_key(one.key)), key=lambda one: one.key)

    # -- writing --------------------------------------------------------------------------------------------------

    def put(self, key: str, data: bytes) -> None:
        """Store `data`, replacing what was there; it is durable after the next `flush`, or when this is not a chunk."""
        if is_chunk(require_key(key)):
            self._uploads.add(key, data)
            if (presence := self._presence) is not None:
                presence.add(key)
            return
        self._confirm()
        self._bucket.put(key, data)

    def put_new(self, key: str, data: bytes) -> None:
        """Store `data` durably; raises BusyError when the key is there already with other bytes."""
        self._confirm()
        is_new = not self._bucket.exists(require_key(key)) and self._bucket.put_if_missing(key, data)
        if not is_new and self._bucket.get(key) != data:
            raise BusyError("somebody else has stored this meanwhile", where=self._bucket.where(key))

    def flush(self) -> None:
        """Wait until every chunk that was put has arrived; after a failure this object takes no more chunks."""
        self._uploads.wait()

    def set_aside(self, name: bytes) -> str:
        """Move a chunk, unread, to `aside_key`, durably, and return that; raises NoInputError when there is none."""
        key, place = chunk_key(name), aside_key(name)
        self._confirm()
        self._bucket.copy(key, place)
        self._bucket.delete(key)
        return place

    def delete(self, keys: Iterable[str]) -> None:
        """Remove keys; those that are missing already do not matter."""
        remaining = map(require_key, keys)
        while batch := [*itertools.islice(remaining, _PAGE)]:
            self._confirm()
            self._bucket.delete_all(batch)

    def _confirm(self) -> None:
        for hold in tuple(self._holds):
            hold.confirm()

    # -- holding --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, guest: str, *, wait_seconds: float = 0) -> Iterator[None]:
        """Hold the store for adding to `guest`; others may add to other guests.

        Raises BusyError naming host and process, at the earliest after two seconds.
        """
        with self._held(leases.Claim.ours(leases.Kind.WRITE, guest), wait_seconds):
            if self._presence is None:
                self._presence = Presence(self._bucket.exists, self._chunk_pages)
            yield

    @contextlib.contextmanager
    def collecting(self, *, wait_seconds: float = 0) -> Iterator[None]:
        """Hold the store alone, for reclaiming; raises BusyError naming host and process while anybody writes."""
        with self._held(leases.Claim.ours(leases.Kind.COLLECT), wait_seconds):
            yield

    @contextlib.contextmanager
    def _held(self, claim: leases.Claim, wait_seconds: float) -> Iterator[None]:
        with leases.held(
            self._bucket, claim, wait_seconds=wait_seconds, where=self._location, times=self._times
        ) as hold:
            self._holds.append(hold)
            try:
                yield
            finally:
                self._holds.remove(hold)
                if not self._holds:
                    self._presence = None

    def _chunk_pages(self) -> Iterator[Sequence[str]]:
        for page in self._bucket.pages(CHUNKS):
            yield [one.key for one in page if is_key(one.key)]


class _Bucket:
    """Requests to the service; every failure becomes one of ours."""

    def __init__(self, location: str, access: Access) -> None:
        bucket, _slash, prefix = location.removeprefix(_SCHEME).partition("/")
        if not bucket:
            raise UsageError("the location names no bucket", where=location, expected=f"{_SCHEME}BUCKET/PREFIX")
        self._location = location.rstrip("/")
        self._store = _open(bucket, prefix.strip("/"), access)

    def where(self, key: str) -> str:
        return f"{self._location}/{key}"

    def get(self, key: str) -> bytes:
        with self._explained("read", key):
            return bytes(obstore.get(self._store, key).bytes())

    def exists(self, key: str) -> bool:
        try:
            with self._explained("look for", key):
                obstore.head(self._store, key)
        except NoInputError:
            return False
        return True

    def put(self, key: str, data: bytes) -> None:
        with self._explained("store", key):
            obstore.put(self._store, key, data, use_multipart=False)

    def put_if_missing(self, key: str, data: bytes) -> bool:
        """Store `data` unless something is there, as far as the service can tell; return whether it was stored."""
        try:
            with self._explained("store", key):
                obstore.put(self._store, key, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        except (NotSupportedError, StorageError) as error:
            if isinstance(error, StorageError) and "NotImplemented" not in error.what:
                raise
            self.put(key, data)
        return True

    def copy(self, key: str, place: str) -> None:
        with self._explained("copy", key):
            obstore.copy(self._store, key, place)

    def delete(self, key: str) -> None:
        self.delete_all([key])

    def delete_all(self, keys: Sequence[str]) -> None:
        with self._explained("remove", keys[0]), contextlib.suppress(NoInputError):
            obstore.delete(self._store, keys)

    def modified(self, prefix: str) -> Mapping[str, datetime]:
        with self._explained("list", prefix):
            return {found["path"]: found["last_modified"] for found in obstore.list(self._store, prefix).collect()}

    def pages(self, prefix: str) -> Iterator[Sequence[Listed]]:
        """Yield what is below `prefix`, a thousand or fewer with each request."""
        above = prefix.rpartition("/")[0]
        stream = obstore.list(self._store, above or None, chunk_size=_PAGE)
        while True:
            with self._explained("list", prefix):
                page = next(stream, None)
            if page is None:
                return
            yield [Listed(found["path"], found["size"]) for found in page if found["path"].startswith(prefix)]

    @contextlib.contextmanager
    def _explained(self, doing: str, key: str) -> Iterator[None]:
        try:
            yield
        except (AlreadyExistsError, NotSupportedError):
            raise
        except (BaseError, OSError, ValueError) as error:
            raise explain(error, doing, self.where(key), self._location) from error


def _open(bucket: str, prefix: str, access: Access) -> S3Store:
    client: ClientConfig = {"allow_http": access.allow_http, "timeout": timedelta(seconds=_REQUEST_SECONDS)}
    if access.ca_bundle is not None:
        client["root_certificate"] = access.ca_bundle
    retry: RetryConfig = {
        "max_retries": access.attempts - 1,
        "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=5),
            "base": 2,
        },
    }
    names = ("access_key_id", "secret_access_key", "session_token")
    config: S3Config = {"region": access.region}
    if access.endpoint is not None:
        config["endpoint"] = access.endpoint
    config.update(zip(names, access.keys, strict=False))  # type: ignore[typeddict-item]
    return S3Store(bucket, prefix=prefix or None, client_options=client, retry_config=retry, config=config)
