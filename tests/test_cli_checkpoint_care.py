"""`umldisk checkpoint`: verify, anchor, marks, prune, gc and rebuild."""

import os
import re
from pathlib import Path

import pytest

from tests.kit.command_line import CommandLine
from tests.kit.commands import Commands, commands
from tests.kit.tampering import alter, rewrite_from
from umldisk.checkpoint.catalog import CATALOG_NAME
from umldisk.checkpoint.store import record_key
from umldisk.checkpoint.stores import open_store


@pytest.fixture
def umldisk(tmp_path: Path) -> Commands:
    return commands(tmp_path)


def records(umldisk: Commands) -> int:
    return len(list((umldisk.store / "guests/blackdance").glob("*.json")))


def a_chunk(umldisk: Commands) -> Path:
    return max((umldisk.store / "chunks").rglob("*.cacnk"), key=lambda path: path.stat().st_size)


# -- verify and anchor ------------------------------------------------------------------------------------------------


def test_what_is_sound_is_recorded_as_verified(umldisk: Commands) -> None:
    said = umldisk("checkpoint", "verify", "blackdance")
    assert (said.code, said.err) == (0, "")
    assert said.lines[0] == "blackdance: the history of 2 records is whole"
    assert said.lines[1].startswith(f"{umldisk.store}: nothing wrong (2 checkpoints, ")
    assert all(row["verified_at"] for row in umldisk("checkpoint", "list", "--json").json["checkpoints"])
    assert records(umldisk) == 3


def test_a_rehearsal_of_verifying_records_nothing(umldisk: Commands) -> None:
    assert umldisk("checkpoint", "verify", "-n").code == 0
    assert records(umldisk) == 2


def test_damage_is_told_with_all_that_it_hurts_and_remembered(umldisk: Commands) -> None:
    path = a_chunk(umldisk)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    said = umldisk("checkpoint", "verify")
    assert (said.code, said.err) == (65, "")
    key = str(path.relative_to(umldisk.store))
    (told,) = (number for number, line in enumerate(said.lines) if line.startswith(f"damaged: {key}: "))
    assert "blackdance var " in said.lines[told + 1]
    (finding,) = umldisk("checkpoint", "verify", "--json").json["stores"][0]["verified"]["damages"]
    hurt = {one["number"] for one in finding["hurt"] if one["number"]}
    rows = umldisk("checkpoint", "list", "--json").json["checkpoints"]
    assert {row["number"] for row in rows if row["damage"]} == hurt != set()
    assert umldisk("checkpoint", "verify", "-q").code == 65
    newest = str(max(hurt))
    assert umldisk("checkpoint", "export", "blackdance", newest, umldisk.directory / "out").code == 65
    assert not (umldisk.directory / "out").exists()


def test_a_missing_chunk_is_found_by_any_sample(umldisk: Commands) -> None:
    path = a_chunk(umldisk)
    path.unlink()
    said = umldisk("checkpoint", "verify", "--sample", "0.001%", "blackdance")
    assert said.code == 65
    assert f"missing: {path.relative_to(umldisk.store)}: it is not in the store" in said.lines


def test_an_altered_history_ends_it(umldisk: Commands) -> None:
    path = umldisk.store / record_key("blackdance", 1)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b'"host": "', b'"host": "x'))
    for words in (["verify"], ["anchor", "blackdance"], ["gc"]):
        said = umldisk("checkpoint", *words)
        assert (said.code, said.out) == (76, "")
        assert "record 1 of blackdance was altered, or the catalog was" in said.err
    (umldisk.directory / CATALOG_NAME).unlink()
    assert umldisk("checkpoint", "rebuild").code == 76


def test_all_broken_histories_are_named(umldisk: Commands) -> None:
    for guest in ("mirage", "zeit"):
        directory = umldisk.store / "guests" / guest
        directory.mkdir()
        (directory / "00000001.json").write_text("{}")
    said = umldisk("checkpoint", "verify")
    assert said.code == 76
    assert [line.split(" (")[0] for line in said.err.splitlines()] == [
        "umldisk: error: record 1 of mirage cannot be read",
        "umldisk: error: record 1 of zeit cannot be read",
    ]


def test_an_anchor_finds_a_history_that_was_rewritten_with_its_catalog(umldisk: Commands) -> None:
    line = umldisk("checkpoint", "anchor", "blackdance").out.strip()
    assert umldisk("checkpoint", "verify", "--anchor", line).code == 0
    assert umldisk("checkpoint", "tag", "blackdance", "later", "1").code == 0
    said = umldisk("checkpoint", "verify", "--anchor", line, "blackdance", "latest")
    assert said.lines[0].endswith(" records is whole, the anchor included")
    rewrite(umldisk)
    (umldisk.directory / CATALOG_NAME).unlink()
    assert umldisk("checkpoint", "rebuild").code == 0
    assert umldisk("checkpoint", "verify", "-n").code == 0
    found = umldisk("checkpoint", "verify", "--anchor", line)
    assert found.code == 76
    assert "is not the one that was anchored" in found.err
    assert umldisk("checkpoint", "verify", "--anchor", line, "mirage").code == 2
    assert umldisk("checkpoint", "verify", "--anchor", "x").code == 2


def rewrite(umldisk: Commands) -> None:
    """Alter the first record and make all later ones fit."""
    store = open_store(str(umldisk.store))
    names = {record_key("web", number): record_key("blackdance", number) for number in range(1, records(umldisk) + 1)}
    data = {web: store.get(name) for web, name in names.items()}
    alter(data, 1, host="x")
    rewrite_from(data, 1)
    for web, name in names.items():
        path = umldisk.store / name
        path.chmod(0o600)
        path.write_bytes(data[web])


@pytest.mark.parametrize("sample", ["0", "101%", "x", "-5%", "nan"])
def test_a_sample_that_there_cannot_be(umldisk: Commands, sample: str) -> None:
    assert umldisk("checkpoint", "verify", "--sample", sample).code == 2
    assert umldisk("checkpoint", "verify", "--sample", "5%", "--all").code == 2


# -- marks ------------------------------------------------------------------------------------------------------------


def test_marks_are_records_and_are_not_repeated(umldisk: Commands) -> None:
    assert umldisk("checkpoint", "protect", "blackdance", "1", "2024-11-19", "1").lines == [
        "blackdance 1: protected",
        "blackdance 2: protected",
    ]
    assert records(umldisk) == 3
    assert umldisk("checkpoint", "protect", "blackdance", "1").lines == ["blackdance 1: is protected already"]
    assert umldisk("checkpoint", "unprotect", "-n", "blackdance", "1").lines == [
        "blackdance 1: would be no longer protected"
    ]
    assert records(umldisk) == 3
    assert umldisk("checkpoint", "unprotect", "blackdance", "latest").code == 0
    assert umldisk("checkpoint", "tag", "blackdance", "gold", "1").lines == ["blackdance 1: tagged gold"]
    assert umldisk("checkpoint", "untag", "blackdance", "silver", "1").lines == ["blackdance 1: has no such tag"]
    first, second = umldisk("checkpoint", "list", "--json").json["checkpoints"]
    assert (first["protected"], first["tags"], second["protected"]) == (True, ["gold"], False)


@pytest.mark.parametrize(("name", "code"), [("3", 66), ("2024-11-17", 66), ("last", 2), ("", 2)])
def test_what_is_not_there_is_not_marked(umldisk: Commands, name: str, code: int) -> None:
    assert umldisk("checkpoint", "protect", "blackdance", "1", name).code == code
    assert records(umldisk) == 2


def test_what_was_deleted_is_not_marked(umldisk: Commands) -> None:
    umldisk("checkpoint", "prune", "--keep-last", "1", "blackdance")
    assert umldisk("checkpoint", "protect", "blackdance", "1").code == 66
    assert umldisk("checkpoint", "verify", "blackdance", "1").code == 66


def test_while_another_writes_nobody_marks(umldisk: Commands) -> None:
    with open_store(str(umldisk.store)).writing("blackdance"):
        for words in (["protect", "blackdance", "1"], ["prune", "--keep-last", "1", "blackdance"], ["gc"], ["rebuild"]):
            assert umldisk("checkpoint", *words).code == 75
        assert umldisk("checkpoint", "protect", "--lock-wait", "0.3", "blackdance", "1").code == 75
        said = umldisk("checkpoint", "verify")
        assert said.code == 0
        assert said.lines[-1].startswith("note: not recorded in the history of blackdance")
    assert records(umldisk) == 2


# -- prune and gc -----------------------------------------------------------------------------------------------------


def test_pruning_marks_and_reclaiming_frees(umldisk: Commands) -> None:
    rehearsed = umldisk("checkpoint", "prune", "--keep-last", "1", "-n", "blackdance")
    assert rehearsed.lines[0] == "blackdance: 1 checkpoint kept, 1 would be marked for removal"
    assert records(umldisk) == 2
    said = umldisk("checkpoint", "prune", "--keep-last", "1", "blackdance")
    assert re.split(r" {2,}", said.lines[1])[1:] == [
        "remove",
        "1",
        "var",
        "2024-11-18 03:15:00",
        "last: 1 newer are kept",
    ]
    assert re.split(r" {2,}", said.lines[2])[3:] == ["var", "2024-11-19 03:15:00", "last 1 of 1; the newest good one"]
    before = len(list((umldisk.store / "chunks").rglob("*.cacnk")))
    (planned,) = umldisk("checkpoint", "gc", "-n", "--json").json["stores"]
    (done,) = umldisk("checkpoint", "gc", "--json").json["stores"]
    after = len(list((umldisk.store / "chunks").rglob("*.cacnk")))
    assert before - after == done["reclaimed"]["chunks_removed"] == planned["reclaimed"]["chunks_removed"] > 0
    assert umldisk("checkpoint", "export", "blackdance", "2", umldisk.directory / "out").code == 0
    assert (umldisk.directory / "out").read_bytes() == umldisk.broken.nights[2]
    gone = umldisk("checkpoint", "export", "blackdance", "1", umldisk.directory / "gone")
    assert (gone.code, gone.err.split(" (")[0]) == (66, "umldisk: error: checkpoint 1 was deleted")
    assert umldisk("checkpoint", "prune", "--keep-last", "1", "--gc", "-q", "blackdance").out == ""


def test_a_prune_is_recorded_with_its_rules(umldisk: Commands) -> None:
    words = ["--keep-last", "1", "--keep-within", "12h", "--keep-tag", "a", "--keep-tag", "b"]
    report = umldisk("checkpoint", "prune", *words, "--json", "blackdance").json
    assert (report["removed"], report["record"]) == ([1], 3)
    assert [[kept["rule"] for kept in one["kept"]] for one in report["decided"]] == [[], ["last", "within", "newest"]]
    later = umldisk("checkpoint", "show", "--json", "blackdance", "1").json["later"]
    assert [one["detail"] for one in later] == [" ".join(words)]


def test_without_a_rule_nothing_is_pruned(umldisk: Commands) -> None:
    for words in ([], ["--keep-daily", "0"], ["--simulate", "3"]):
        assert umldisk("checkpoint", "prune", *words, "blackdance").code == 2
    assert umldisk("checkpoint", "prune", "--keep-last", "1", "--simulate", "3", "--gc", "blackdance").code == 2
    assert umldisk("checkpoint", "prune", "--keep-within", "soon", "blackdance").code == 2


def test_nights_to_come_are_simulated(umldisk: Commands) -> None:
    said = umldisk("checkpoint", "prune", "--keep-daily", "3", "--simulate", "30", "blackdance")
    assert said.lines[1] == "  3 checkpoints of 32 would be there, and never more than 4"
    assert [line.split()[1] for line in said.lines[2:]] == ["30", "31", "32"]
    assert records(umldisk) == 2


def test_nothing_is_made_where_nothing_was_recorded(tmp_path: Path) -> None:
    umldisk = CommandLine(tmp_path)
    for words in (["prune", "--keep-last", "1", "x"], ["protect", "x", "1"], ["diff", "x", "1", "2"]):
        assert umldisk("checkpoint", *words).code == 66
    assert os.listdir(tmp_path) == []


# -- rebuild ----------------------------------------------------------------------------------------------------------


def test_a_catalog_is_made_anew(umldisk: Commands) -> None:
    umldisk("checkpoint", "tag", "blackdance", "gold", "1")
    before = umldisk("checkpoint", "list", "-a", "--json").json["checkpoints"]
    (umldisk.directory / CATALOG_NAME).write_bytes(b"damaged" * 1000)
    for suffix in ("-wal", "-shm"):
        (umldisk.directory / f"{CATALOG_NAME}{suffix}").unlink(missing_ok=True)
    assert umldisk("checkpoint", "list").code == 65
    assert umldisk("checkpoint", "rebuild", "-n").code == 0
    assert umldisk("checkpoint", "list").code == 65
    said = umldisk("checkpoint", "rebuild")
    assert said.lines == [
        f"{umldisk.directory}/{CATALOG_NAME}: made anew from {umldisk.store}",
        "  blackdance: 3 records",
    ]
    assert umldisk("checkpoint", "list", "-a", "--json").json["checkpoints"] == before
    assert umldisk("checkpoint", "take", "blackdance").lines[1].startswith("  all of its data was read: ")
