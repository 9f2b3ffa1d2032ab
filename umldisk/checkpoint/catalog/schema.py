"""The tables of catalog.db, and how a catalog of an earlier version becomes one of this.

The comments are part of the statements: `sqlite3 catalog.db .schema` shows them. docs/catalog.md publishes the same.
A migration, once released, never changes; whatever comes later is a further one at the end. Its statements run in one
transaction, together with the row in `migrations` that says so and with `PRAGMA user_version`. A table that gets a
column is made anew, since SQLite's ALTER TABLE would put the column behind another one's comment.
"""

from __future__ import annotations

from dataclasses import dataclass

APPLICATION_ID = 0x756D6C63
"""What `PRAGMA application_id` says of a catalog: "umlc"."""


@dataclass(frozen=True, slots=True)
class Migration:
    """What leads to `version` from the one before: `what` in one line, and SQL, one statement each."""

    version: int
    what: str
    statements: tuple[str, ...]


_MIGRATIONS = """\
CREATE TABLE migrations (
    -- How this catalog came to its version; PRAGMA user_version is the last one.
    version    INTEGER PRIMARY KEY,  -- the version that was reached
    what       TEXT NOT NULL,        -- what changed, in one line
    umldisk    TEXT NOT NULL,        -- which umldisk did it
    applied_at TEXT NOT NULL         -- when, in UTC
) STRICT"""

_RECORDS = """\
CREATE TABLE records (
    -- Every record of every guest's history, as it lies in the store.
    guest    TEXT NOT NULL,     -- whose history
    number   INTEGER NOT NULL,  -- 1, 2, 3, ... without a gap in each guest's history
    digest   TEXT NOT NULL,     -- SHA-256 of the record's file in the store
    previous TEXT NOT NULL,     -- digest of the record before it; '' for the first
    time     TEXT NOT NULL,     -- when, in UTC, ISO 8601 with microseconds
    kind     TEXT NOT NULL,     -- checkpoint, protect, unprotect, tag, untag, verify, delete
    host     TEXT NOT NULL,     -- which host wrote it
    version  TEXT NOT NULL,     -- which umldisk wrote it
    detail   TEXT NOT NULL,     -- a tag; or how a verification was done and what it found
    extra    TEXT NOT NULL,     -- what a later umldisk wrote that this one does not know: a JSON object
    PRIMARY KEY (guest, number),
    CHECK (number >= 1)
) STRICT, WITHOUT ROWID"""

_CHECKPOINTS = """\
CREATE TABLE checkpoints (
    -- Every record of kind checkpoint: what it says of the drive, and how it stands after all later records.
    guest             TEXT NOT NULL,     -- whose drive
    number            INTEGER NOT NULL,  -- the number of its record, by which users name it
    drive             TEXT NOT NULL,     -- which drive
    size_bytes        INTEGER NOT NULL,  -- the exact length of the disk
    index_sha256      TEXT NOT NULL,     -- SHA-256 of the index as a file
    parent            INTEGER,           -- the checkpoint of the same drive before it; NULL for the first
    base_index_sha256 TEXT,              -- which index the backing file equalled; NULL when that was not known
    changed_bytes     INTEGER NOT NULL,  -- bytes of chunks that differ from the parent's
    stored_bytes      INTEGER NOT NULL,  -- bytes that the store grew by
    read_bytes        INTEGER NOT NULL,  -- bytes that were read from the disk
    read_whole        INTEGER NOT NULL,  -- 1 when the COW file's bitmap could not be relied on
    consistency       TEXT NOT NULL,     -- off, frozen, journal: in which state the guest was
    merged            INTEGER NOT NULL,  -- 1 when the COW file was folded into the backing file afterwards
    duration_seconds  REAL NOT NULL,     -- how long it took
    reason            TEXT NOT NULL,     -- why, in the words of whoever took it
    given_tags        TEXT NOT NULL,     -- tags it was taken with: a JSON list
    tags              TEXT NOT NULL,     -- tags it has now: a JSON list
    protected         INTEGER NOT NULL,  -- 1 when it is never pruned
    verified_at       TEXT,              -- when it was last verified, in UTC
    verified_how      TEXT NOT NULL,     -- how it was last verified; '' for never
    damage            TEXT NOT NULL,     -- damage that was found and not cleared by a whole verification; '' for none
    deleted_at        TEXT,              -- when it was marked for removal, in UTC
    PRIMARY KEY (guest, number),
    FOREIGN KEY (guest, number) REFERENCES records (guest, number),
    FOREIGN KEY (guest, parent) REFERENCES checkpoints (guest, number),
    CHECK (read_whole IN (0, 1) AND merged IN (0, 1) AND protected IN (0, 1))
) STRICT, WITHOUT ROWID"""

_SUBJECTS = """\
CREATE TABLE subjects (
    -- Which checkpoints a record of another kind is about.
    guest      TEXT NOT NULL,     -- whose history
    number     INTEGER NOT NULL,  -- the record
    checkpoint INTEGER NOT NULL,  -- a checkpoint it is about
    PRIMARY KEY (guest, number, checkpoint),
    FOREIGN KEY (guest, number) REFERENCES records (guest, number),
    FOREIGN KEY (guest, checkpoint) REFERENCES checkpoints (guest, number)
) STRICT, WITHOUT ROWID"""

_BASE_STATES = """\
CREATE TABLE base_states (
    -- What is known of the backing files on this host; the only table that the store does not know.
    guest        TEXT NOT NULL,     -- whose drive
    drive        TEXT NOT NULL,     -- which drive
    index_sha256 TEXT NOT NULL,     -- SHA-256 of the index that the backing file equals
    size_bytes   INTEGER NOT NULL,  -- how the file looked when that was known: its length,
    mtime_ns     TEXT NOT NULL,     -- time of last change of its contents, in nanoseconds,
    inode        TEXT NOT NULL,     -- inode number,
    ctime_ns     TEXT NOT NULL,     -- time of last change of its inode, in nanoseconds,
    device       TEXT NOT NULL,     -- and device number, each in decimal: they can exceed SQLite's integers
    PRIMARY KEY (guest, drive)
) STRICT, WITHOUT ROWID"""

_INDEXES = (
    "CREATE INDEX checkpoints_by_parent ON checkpoints (guest, parent)",
    "CREATE INDEX subjects_by_checkpoint ON subjects (guest, checkpoint)",
)

_CHECKPOINTS_2 = """\
CREATE TABLE checkpoints_2 (
    -- Every record of kind checkpoint: what it says of the drive, and how it stands after all later records.
    guest             TEXT NOT NULL,     -- whose drive
    number            INTEGER NOT NULL,  -- the number of its record, by which users name it
    drive             TEXT NOT NULL,     -- which drive
    size_bytes        INTEGER NOT NULL,  -- the exact length of the disk
    index_sha256      TEXT NOT NULL,     -- SHA-256 of the index as a file
    parent            INTEGER,           -- the checkpoint of the same drive before it; NULL for the first
    base_index_sha256 TEXT,              -- which index the backing file equalled; NULL when that was not known
    changed_bytes     INTEGER NOT NULL,  -- bytes of chunks that differ from the parent's
    stored_bytes      INTEGER NOT NULL,  -- bytes that the store grew by
    read_bytes        INTEGER NOT NULL,  -- bytes that were read from the disk
    read_whole        INTEGER NOT NULL,  -- 1 when the COW file's bitmap could not be relied on
    consistency       TEXT NOT NULL,     -- off, frozen, journal: in which state the guest was
    merged            INTEGER NOT NULL,  -- 1 when the COW file was folded into the backing file afterwards
    duration_seconds  REAL NOT NULL,     -- how long it took
    reason            TEXT NOT NULL,     -- why, in the words of whoever took it
    given_tags        TEXT NOT NULL,     -- tags it was taken with: a JSON list
    tags              TEXT NOT NULL,     -- tags it has now: a JSON list
    protected         INTEGER NOT NULL,  -- 1 when it is never pruned
    verified_at       TEXT,              -- when it was last verified, in UTC
    verified_how      TEXT NOT NULL,     -- how it was last verified; '' for never
    damage            TEXT NOT NULL,     -- damage that was found and not cleared by a whole verification; '' for none
    deleted_at        TEXT,              -- when it was marked for removal, in UTC
    drilled_at        TEXT,              -- when it was last drilled, in UTC
    drilled_how       TEXT NOT NULL,     -- how far its last drill came; '' for never
    drill_failure     TEXT NOT NULL,     -- why its last drill failed; '' for not
    PRIMARY KEY (guest, number),
    FOREIGN KEY (guest, number) REFERENCES records (guest, number),
    FOREIGN KEY (guest, parent) REFERENCES checkpoints (guest, number),
    CHECK (read_whole IN (0, 1) AND merged IN (0, 1) AND protected IN (0, 1))
) STRICT, WITHOUT ROWID"""

_COPIED = "INSERT INTO checkpoints_2 SELECT *, NULL, '', '' FROM checkpoints"

MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        1,
        "records, checkpoints and base states",
        (_MIGRATIONS, _RECORDS, _CHECKPOINTS, _SUBJECTS, _BASE_STATES, *_INDEXES),
    ),
    Migration(
        2,
        "drills of checkpoints",
        (
            _CHECKPOINTS_2,
            _COPIED,
            "DROP TABLE checkpoints",
            "ALTER TABLE checkpoints_2 RENAME TO checkpoints",
            _INDEXES[0],
        ),
    ),
)
