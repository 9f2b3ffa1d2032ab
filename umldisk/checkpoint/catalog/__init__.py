"""catalog.db: what the store's records say, ready for questions; the only part that knows SQLite.

The store is the truth and the catalog its cache: `history.sync` adds what it lacks, `history.rebuild` makes it anew.
It is kept in step by one rule: a record is added only after the one that it follows, in one transaction with all that
it changes. So whatever dies, the catalog is some earlier moment of the history, never a mixture.

WAL mode lets readers go on while somebody writes. Rows are durable when `add` returns (synchronous=FULL). The schema is
published in docs/catalog.md; a catalog of a later version is refused, one of an earlier version is migrated.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from umldisk.checkpoint.basestate import BaseState
from umldisk.checkpoint.catalog import opening, rows
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.record import Record
from umldisk.checkpoint.standing import after, begun
from umldisk.errors import HistoryError, NoInputError

CATALOG_NAME = "catalog.db"
WAIT_SECONDS = 10.0

_RECORDS = ", ".join(f"r.{name}" for name in rows.RECORD_COLUMNS.split(", "))
_ALL_CHECKPOINTS = (
    f"SELECT {_RECORDS}, {rows.TAKEN_COLUMNS}, {rows.STANDING_COLUMNS}"
    " FROM checkpoints AS c JOIN records AS r ON r.guest = c.guest AND r.number = c.number"
)


class Catalog:
    """An open catalog; a context manager that owns its connection, to be used from the thread that opened it.

    Every method raises BusyError when another process kept the catalog for too long, StorageError when reading or
    writing failed, and DataError, with the hint to rebuild it, when it is damaged.
    """

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self.path = path

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, writable: bool, wait_seconds: float = WAIT_SECONDS) -> Self:
        """Open the catalog; a writer makes one that is not there, a reader raises NoInputError.

        Raises DataError when it is damaged, another program's, or of a later version, naming both versions.
        """
        name = os.fspath(path)
        opened = opening.open_writable if writable else opening.open_readable
        return cls(opened(name, wait_seconds), name)

    @classmethod
    def open_anew(cls, path: str | os.PathLike[str], *, wait_seconds: float = WAIT_SECONDS) -> Self:
        """Open the catalog for rebuilding: one that is damaged, foreign or later is renamed (…set-aside) before."""
        name = os.fspath(path)
        if not opening.is_sound(name, wait_seconds):
            opening.set_aside(name)
        return cls.open(name, writable=True, wait_seconds=wait_seconds)

    def close(self) -> None:
        """Give up the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all that the block does, or nothing; a block within a block belongs to the outer one."""
        if self._connection.in_transaction:
            yield
            return
        with opening.explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            with opening.explained(self.path):
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _rows(self, sql: str, *values: object) -> list[rows.Row]:
        with opening.explained(self.path):
            return self._connection.execute(sql, values).fetchall()

    # -- records ------------------------------------------------------------------------------------------------------

    def add(self, record: Record, digest: str) -> None:
        """Add the next record of a guest, whose file has `digest`, with all that it changes; durable on return.

        Raises HistoryError when it does not follow the last one, or is about a checkpoint that does not exist.
        """
        with self.transaction():
            self._require_next(record)
            self._insert("records", rows.RECORD_COLUMNS, rows.record_row(record, digest))
            if record.taken is not None:
                self._require_checkpoint(record, record.taken.parent)
                self._insert("checkpoints", rows.CHECKPOINT_COLUMNS, rows.checkpoint_row(begun(record)))
            for number in record.subjects:
                self._change(self._require_checkpoint(record, number), record)

    def _require_next(self, record: Record) -> None:
        number, digest = self.last(record.guest) or (0, "")
        if (record.number, record.previous) != (number + 1, digest):
            raise HistoryError(
                f"record {record.number} of {record.guest} does not follow the last one that the catalog has",
                where=self.path,
                expected=f"record {number + 1} after {digest or 'none'}",
                found=f"record {record.number} after {record.previous or 'none'}",
                hint="compare the history with the store: umldisk checkpoint verify",
            )

    def _require_checkpoint(self, record: Record, number: int | None) -> Checkpoint | None:
        if number is None:
            return None
        try:
            return self.checkpoint(record.guest, number)
        except NoInputError as error:
            what = f"record {record.number} of {record.guest} is about checkpoint {number}, which there is not"
            raise HistoryError(what, where=self.path) from error

    def _change(self, checkpoint: Checkpoint | None, record: Record) -> None:
        assert checkpoint is not None
        row = (record.guest, record.number, checkpoint.number)
        self._insert("subjects", "guest, number, checkpoint", row)
        columns = f"({rows.STANDING_COLUMNS}) = ({rows.placeholders(rows.STANDING_COLUMNS)})"
        changed = rows.standing_row(after(checkpoint, record))
        where = "WHERE guest = ? AND number = ?"
        self._rows(f"UPDATE checkpoints SET {columns} {where}", *changed, record.guest, checkpoint.number)

    def _insert(self, table: str, columns: str, row: rows.Row) -> None:
        self._rows(f"INSERT INTO {table} ({columns}) VALUES ({rows.placeholders(columns)})", *row)

    def last(self, guest: str) -> tuple[int, str] | None:
        """Return number and digest of the guest's last record, or None when there is none."""
        sql = "SELECT number, digest FROM records WHERE guest = ? ORDER BY number DESC LIMIT 1"
        found = self._rows(sql, guest)
        return found[0] if found else None

    def digests(self, guest: str) -> dict[int, str]:
        """Return the digest of each of the guest's records by its number, oldest first."""
        return dict(self._rows("SELECT number, digest FROM records WHERE guest = ? ORDER BY number", guest))

    def records(self, guest: str) -> list[tuple[Record, str]]:
        """Return every record of a guest with its digest, oldest first."""
        subjects: dict[int, tuple[int, ...]] = defaultdict(tuple)
        sql = "SELECT number, checkpoint FROM subjects WHERE guest = ? ORDER BY number, checkpoint"
        with self._snapshot():
            for number, checkpoint in self._rows(sql, guest):
                subjects[number] += (checkpoint,)
            taken = {found.number: found.taken for found in self.checkpoints(guest, deleted=True)}
            sql = f"SELECT {rows.RECORD_COLUMNS} FROM records WHERE guest = ? ORDER BY number"
            found = self._rows(sql, guest)
        with opening.explained(self.path):
            return [(rows.record_of(row, taken.get(row[1]), subjects[row[1]]), row[2]) for row in found]

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Let several questions be answered from one moment."""
        if self._connection.in_transaction:
            yield
            return
        self._rows("BEGIN")
        try:
            yield
        finally:
            self._rows("ROLLBACK")

    def guests(self) -> list[str]:
        """Return the names of all guests that have a record, sorted."""
        return [name for (name,) in self._rows("SELECT DISTINCT guest FROM records ORDER BY guest")]

    def clear(self) -> None:
        """Forget everything, base states included, for rebuilding."""
        with self.transaction():
            for table in ("base_states", "subjects", "checkpoints", "records"):
                self._rows(f"DELETE FROM {table}")

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def checkpoints(
        self, guest: str | None = None, *, drive: str | None = None, deleted: bool = False
    ) -> list[Checkpoint]:
        """Return checkpoints as they stand now, by guest and then oldest first; `deleted` adds those marked so."""
        wanted = {"c.guest = ?": guest, "c.drive = ?": drive}
        terms = [term for term, value in wanted.items() if value is not None]
        terms += [] if deleted else ["c.deleted_at IS NULL"]
        where = f" WHERE {' AND '.join(terms)}" if terms else ""
        values = [value for value in wanted.values() if value is not None]
        found = self._rows(f"{_ALL_CHECKPOINTS}{where} ORDER BY c.guest, c.number", *values)
        with opening.explained(self.path):
            return [rows.checkpoint_of(row) for row in found]

    def checkpoint(self, guest: str, number: int) -> Checkpoint:
        """Return one checkpoint, also a deleted one; raises NoInputError when there is none of that number."""
        least_impossible = 1 << 63  # what SQLite's integers no longer hold
        sql = f"{_ALL_CHECKPOINTS} WHERE c.guest = ? AND c.number = ?"
        found = self._rows(sql, guest, number) if 0 < number < least_impossible else []
        if not found:
            raise NoInputError(f"{guest} has no checkpoint {number}", where=self.path)
        with opening.explained(self.path):
            return rows.checkpoint_of(found[0])

    # -- base states --------------------------------------------------------------------------------------------------

    def base_state(self, guest: str, drive: str) -> BaseState | None:
        """Return what is known of a drive's backing file, or None."""
        found = self._rows("SELECT * FROM base_states WHERE guest = ? AND drive = ?", guest, drive)
        with opening.explained(self.path):
            return rows.base_state_of(found[0]) if found else None

    def set_base_state(self, state: BaseState) -> None:
        """Remember what is known of a drive's backing file, instead of what was; durable on return."""
        row = rows.base_state_row(state)
        with self.transaction():
            self._rows(f"INSERT OR REPLACE INTO base_states VALUES ({', '.join('?' * len(row))})", *row)

    def forget_base_state(self, guest: str, drive: str) -> None:
        """Forget what is known of a drive's backing file, before it is changed."""
        with self.transaction():
            self._rows("DELETE FROM base_states WHERE guest = ? AND drive = ?", guest, drive)
