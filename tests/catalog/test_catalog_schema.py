"""The catalog's tables are published as they are, and change from version to version or not at all."""

from __future__ import annotations

import re
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.kit.histories import TAKEN, Keeper, filled
from tests.kit.peers import mounted, needs
from umldisk.checkpoint import history
from umldisk.checkpoint.catalog import Catalog, schema
from umldisk.checkpoint.catalog.schema import MIGRATIONS, Migration
from umldisk.errors import DataError

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "catalog.md"


# -- the published schema ---------------------------------------------------------------------------------------------
def rows_below(heading: str) -> list[list[str]]:
    """Return the cells of the table that follows a heading of the document, without its head."""
    text = DOCUMENT.read_text()
    part = re.split(r"^#+ ", text.partition(f"{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_every_table_and_column_is_published_and_no_other(path: Path, catalog: Catalog) -> None:
    with closing(sqlite3.connect(path)) as raw:
        tables = [name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert sorted(re.findall(r"^### `(\w+)`$", DOCUMENT.read_text(), re.MULTILINE)) == sorted(tables)
        for table in tables:
            published = rows_below(f"### `{table}`")
            assert all(len(row) == 3 and all(row) for row in published)
            columns = [(f"`{row[1]}`", row[2]) for row in raw.execute(f"PRAGMA table_xinfo({table})")]
            assert [(row[0], row[1]) for row in published] == columns


def test_every_index_is_published_and_no_other(path: Path, catalog: Catalog) -> None:
    with closing(sqlite3.connect(path)) as raw:
        sql = "SELECT name, tbl_name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name"
        found = []
        for name, table in raw.execute(sql):
            columns = ", ".join(f"`{row[2]}`" for row in raw.execute(f"PRAGMA index_info({name})"))
            found.append([f"`{name}`", f"`{table}`", columns])
    assert rows_below("## Indexes") == found


def test_the_version_history_is_published() -> None:
    assert rows_below("## Versions") == [[str(one.version), one.what] for one in MIGRATIONS]
    assert [one.version for one in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))
    assert str(schema.APPLICATION_ID) in DOCUMENT.read_text()


def test_the_schema_in_the_database_explains_every_column(path: Path, catalog: Catalog) -> None:
    with closing(sqlite3.connect(path)) as raw:
        for table, sql in raw.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"):
            for row in raw.execute(f"PRAGMA table_xinfo({table})"):
                assert re.search(rf"^    {row[1]} +[A-Z].*-- .+$", sql, re.MULTILINE), (table, row[1])


def test_the_published_question_can_be_asked(path: Path, keeper: Keeper) -> None:
    keeper.take()
    (question,) = re.findall(r'catalog\.db "(SELECT .+)"', DOCUMENT.read_text())
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute(question).fetchall() == [(1, "var", TAKEN.stored_bytes)]


def test_it_is_durable_and_checks_itself(path: Path, catalog: Catalog) -> None:
    asked = {name: catalog._rows(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous", "foreign_keys")}
    assert asked == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


# -- versions ---------------------------------------------------------------------------------------------------------
NEXT = len(MIGRATIONS) + 1
SYNTHETIC = Migration(
    NEXT,
    "moods",
    (
        "CREATE TABLE moods (guest TEXT NOT NULL, mood TEXT NOT NULL) STRICT",
        "INSERT INTO moods SELECT DISTINCT guest, 'good' FROM records",
        "ALTER TABLE checkpoints ADD COLUMN mood TEXT",
    ),
)


def pragma(path: Path, name: str) -> int:
    with closing(sqlite3.connect(path)) as raw:
        return int(raw.execute(f"PRAGMA {name}").fetchone()[0])


def test_a_new_catalog_says_how_it_came_to_be(path: Path, catalog: Catalog) -> None:
    assert pragma(path, "user_version") == MIGRATIONS[-1].version
    assert pragma(path, "application_id") == int.from_bytes(b"umlc", "big")
    assert [row[:2] for row in catalog._rows("SELECT * FROM migrations")] == [(m.version, m.what) for m in MIGRATIONS]


@pytest.mark.parametrize("writable", [True, False])
def test_an_earlier_catalog_is_migrated(path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool) -> None:
    filled(path)
    with Catalog.open(path, writable=False) as catalog:
        before = catalog.records("web")
    monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, SYNTHETIC))
    with Catalog.open(path, writable=writable) as catalog:
        assert catalog.records("web") == before
        assert catalog._rows("SELECT * FROM moods") == [("web", "good")]
        assert [row[0] for row in catalog._rows("SELECT version FROM migrations")] == list(range(1, NEXT + 1))
    assert pragma(path, "user_version") == NEXT


BROKEN = {
    "a statement that fails": ("INSERT INTO nowhere VALUES (1)",),
    "a row that others name is gone": ("DELETE FROM records WHERE number = 1",),
    "a statement after one that worked": ("DELETE FROM subjects", "SELECT nothing FROM records"),
}


@pytest.mark.parametrize("statements", BROKEN.values(), ids=BROKEN.keys())
def test_a_migration_that_fails_leaves_everything_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch, statements: tuple[str, ...]
) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as raw:
        before = list(raw.iterdump())
    for steps in ((SYNTHETIC, Migration(NEXT + 1, "bad", statements)), (Migration(NEXT, "bad", statements),)):
        with monkeypatch.context() as patch:
            patch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, *steps))
            with pytest.raises(DataError):
                Catalog.open(path, writable=True)
        done = steps[:-1]
        assert pragma(path, "user_version") == len(MIGRATIONS) + len(done)
        if not done:
            break
        path.unlink()
        filled(path)
    with closing(sqlite3.connect(path)) as raw:
        assert differing(before, list(raw.iterdump())) == []


def differing(one: list[str], other: list[str]) -> list[str]:
    """Return the lines that are in one dump alone, but for the time at which the catalog was made."""
    plain = [{re.sub(r"'20\d\d-\d\d-\d\dT[^']+'\);", "", line) for line in lines} for lines in (one, other)]
    return sorted(plain[0] ^ plain[1])


@pytest.mark.parametrize("writable", [True, False])
def test_a_later_catalog_is_refused_naming_both_versions(path: Path, writable: bool) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA user_version = 41")
    contents = path.read_bytes()
    with pytest.raises(DataError, match=rf"expected version {MIGRATIONS[-1].version}, found version 41"):
        Catalog.open(path, writable=writable)
    assert path.read_bytes() == contents


def test_a_later_catalog_is_set_aside_whole(path: Path) -> None:
    store = filled(path)
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA user_version = 41")
    for _again in range(2):
        with Catalog.open_anew(path) as catalog:
            history.rebuild(store, catalog)
    assert pragma(Path(f"{path}.set-aside"), "user_version") == 41
    assert pragma(path, "user_version") == MIGRATIONS[-1].version


@needs("tmpfs")
def test_an_earlier_catalog_that_cannot_be_migrated_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted("tmpfs", tmp_path) as point:
        filled(point / "catalog.db")
        subprocess.run(["mount", "-o", "remount,ro", str(point)], check=True)
        monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, SYNTHETIC))
        with pytest.raises(DataError, match=rf"expected version {NEXT}, found version {NEXT - 1}"):
            Catalog.open(point / "catalog.db", writable=False)
