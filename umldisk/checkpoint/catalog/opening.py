"""Opening catalog.db: which version it is, what is wrong with it, and what SQLite's errors mean to us.

    not there            a writer makes it, a reader raises NoInputError and never makes one
    no database,         DataError; `set_aside` moves it away and the store gives a new one
    another's database
    a later version      DataError naming both
    an earlier version   migrated, each step in one transaction

A reader that may not write to the directory still reads: where SQLite cannot make its -shm file and nothing lies in the
-wal file, the database is opened as one that nobody changes.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from urllib.parse import quote

import umldisk
from umldisk.checkpoint.catalog import schema
from umldisk.errors import BusyError, DataError, NoInputError, StorageError, UmldiskError, from_os_error
from umldisk.system.staging import remove, sync_directory

REBUILD = "make it anew from the store with: umldisk checkpoint rebuild"
_BESIDE = ("", "-wal", "-shm")
_SET_ASIDE = ".set-aside"
_RETRY_SECONDS = 0.05
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH}
_STORAGE = {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOLFS,
}


def open_writable(path: str, wait_seconds: float) -> sqlite3.Connection:
    """Open or make the catalog, at this version; raises StorageError when it may not be written to."""
    if os.path.exists(path) and not os.access(path, os.W_OK, effective_ids=True):
        raise StorageError("the catalog may not be written to", where=path)  # SQLite would open it all the same
    with explained(path):
        connection = _connect(path, "rwc", wait_seconds)
        try:
            version_of(connection, path)
            _use_wal(connection, wait_seconds)
            connection.execute("PRAGMA synchronous = FULL")
            migrate(connection, schema.MIGRATIONS, path=path)
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
    return connection


def open_readable(path: str, wait_seconds: float) -> sqlite3.Connection:
    """Open a catalog that is there, without ever making one; raises NoInputError when it is not."""
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        raise NoInputError("no catalog", where=path, hint=REBUILD)
    with explained(path):
        connection, version = _open_any_way(path, wait_seconds)
    if version == schema.MIGRATIONS[-1].version:
        return connection
    connection.close()
    try:
        open_writable(path, wait_seconds).close()
    except StorageError as error:
        raise _other_version(path, version, "run any command that takes checkpoints once, as its owner") from error
    return open_readable(path, wait_seconds)


def _open_any_way(path: str, wait_seconds: float) -> tuple[sqlite3.Connection, int]:
    try:
        return _open_as(path, "ro", wait_seconds)
    except sqlite3.OperationalError as error:
        if _primary(error) not in _STORAGE or _has_wal(path):
            raise
        return _open_as(path, "ro&immutable=1", wait_seconds)


def _open_as(path: str, mode: str, wait_seconds: float) -> tuple[sqlite3.Connection, int]:
    connection = _connect(path, mode, wait_seconds)
    try:
        return connection, version_of(connection, path)
    except BaseException:
        connection.close()
        raise


def _has_wal(path: str) -> bool:
    return os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal") > 0


def _connect(path: str, mode: str, wait_seconds: float) -> sqlite3.Connection:
    # Where the site is named as bytes that are no text, the path holds them escaped, as the quoted URI does.
    uri = f"file:{quote(os.fsencode(os.path.abspath(path)))}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=wait_seconds, isolation_level=None)


def _use_wal(connection: sqlite3.Connection, wait_seconds: float) -> None:
    """Switch to WAL mode, for which SQLite itself does not wait."""
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if _primary(error) not in _BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)


# -- versions ---------------------------------------------------------------------------------------------------------


def version_of(connection: sqlite3.Connection, path: str) -> int:
    """Return the catalog's version, 0 for an empty file; raises DataError when it is later than ours or no catalog."""
    version, application = _pragma(connection, "user_version"), _pragma(connection, "application_id")
    is_empty = connection.execute("SELECT NOT EXISTS (SELECT 1 FROM sqlite_master)").fetchone()[0]
    if application != schema.APPLICATION_ID and not (is_empty and application == version == 0):
        raise DataError("not a catalog of umldisk", where=path, found="another program's database", hint=REBUILD)
    if version > schema.MIGRATIONS[-1].version:
        raise _other_version(path, version, "use the umldisk that wrote it, or a later one")
    return version


def _other_version(path: str, version: int, hint: str) -> DataError:
    latest = schema.MIGRATIONS[-1].version
    return DataError(
        "the catalog is of another version",
        where=path,
        expected=f"version {latest}",
        found=f"version {version}",
        hint=hint,
    )


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def migrate(connection: sqlite3.Connection, migrations: Sequence[schema.Migration], *, path: str) -> None:
    """Bring the catalog to the last of `migrations`; each that is done stays done, none is done by halves."""
    connection.execute("PRAGMA foreign_keys = OFF")  # a table that others refer to is changed by making it anew
    for migration in migrations:
        if _pragma(connection, "user_version") >= migration.version:
            continue
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _pragma(connection, "user_version") < migration.version:  # nobody else was first
                _apply(connection, migration, path)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _apply(connection: sqlite3.Connection, migration: schema.Migration, path: str) -> None:
    for statement in migration.statements:
        connection.execute(statement)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    row = (migration.version, migration.what, umldisk.__version__, now)
    connection.execute("INSERT INTO migrations VALUES (?, ?, ?, ?)", row)
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {migration.version}")
    if connection.execute("PRAGMA foreign_key_check").fetchone():
        raise DataError("the catalog's rows do not fit together", where=path, hint=REBUILD)


# -- what went wrong --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Raise what SQLite, and a row that makes no sense, say as an UmldiskError about the catalog."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explain(error, path) from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError("the catalog is damaged", where=path, found=str(error), hint=REBUILD) from error


def _explain(error: sqlite3.Error, path: str) -> UmldiskError:
    code = _primary(error)
    if code in _BUSY:
        return BusyError("the catalog is in use", where=path, hint="wait for the other command, then run it again")
    if code in _STORAGE:
        return StorageError(f"cannot use the catalog: {error}", where=path)
    if code in _DAMAGED or not isinstance(error, sqlite3.IntegrityError):
        return DataError("the catalog is damaged", where=path, found=str(error), hint=REBUILD)
    return DataError("the catalog does not take what contradicts it", where=path, found=str(error), hint=REBUILD)


def _primary(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


# -- starting again ---------------------------------------------------------------------------------------------------


def is_sound(path: str, wait_seconds: float) -> bool:
    """Whether `path` is missing or a catalog of ours whose every page can be read and whose every table is there."""
    if not os.path.lexists(path):
        return True
    with (
        contextlib.suppress(DataError),
        contextlib.closing(open_writable(path, wait_seconds)) as connection,
        contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh,
        explained(path),
    ):
        migrate(fresh, schema.MIGRATIONS, path=path)
        is_whole = [row[0] for row in connection.execute("PRAGMA integrity_check")] == ["ok"]
        return is_whole and _tables(connection) == _tables(fresh)
    return False


def _tables(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def set_aside(path: str) -> str:
    """Rename an unusable catalog and what belongs to it, so that a new one can be made; return its new name.

    What was set aside before is replaced. Raises StorageError.
    """
    for suffix in _BESIDE:
        remove(f"{path}{_SET_ASIDE}{suffix}")
    for suffix in reversed(_BESIDE):  # the database goes last: until then its -wal is not taken for another's
        with contextlib.suppress(FileNotFoundError):
            _rename(f"{path}{suffix}", f"{path}{_SET_ASIDE}{suffix}")
    sync_directory(os.path.dirname(path) or ".")
    return f"{path}{_SET_ASIDE}"


def _rename(path: str, new_path: str) -> None:
    try:
        os.rename(path, new_path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise from_os_error(error, "rename", path) from error
