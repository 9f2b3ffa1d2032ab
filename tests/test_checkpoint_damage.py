"""What happens after damage was found, or a store or catalog was lost: later nights are good again, or are refused."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.checkpoints import History
from tests.kit.nights import BASE, MERGE, Scene, sector, take
from umldisk.checkpoint import history
from umldisk.checkpoint.catalog import CATALOG_NAME, Catalog
from umldisk.checkpoint.directory_store import DirectoryStore
from umldisk.checkpoint.index import parse
from umldisk.checkpoint.record import Kind
from umldisk.checkpoint.recording import Why
from umldisk.checkpoint.retention import Policy
from umldisk.checkpoint.setting_aside import Aside, set_aside
from umldisk.checkpoint.standing import standing
from umldisk.checkpoint.store import CHUNKS, DAMAGED, Listed, chunk_key, index_key, record_key
from umldisk.checkpoint.verifying import Condition, Damage, Sample, verify
from umldisk.errors import HistoryError, NoInputError, StorageError
from umldisk.ops.checkpoints.listing import list_checkpoints
from umldisk.ops.checkpoints.pruning import PruneOptions, prune
from umldisk.ops.checkpoints.rebuilding import rebuild_catalog
from umldisk.ops.checkpoints.taking import take_checkpoint
from umldisk.ops.checkpoints.verifying import StoreVerified, VerifyOptions, verify_checkpoints
from umldisk.ops.restoring.planning import Wish, ways


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path, BASE)


def store_of(scene: Scene) -> DirectoryStore:
    return DirectoryStore(str(scene.directory / "store"))


def first_chunk(scene: Scene, number: int) -> Path:
    """Return the file of the first chunk of a checkpoint's disk."""
    index = parse(store_of(scene).get(index_key("g", number)))
    return scene.directory / "store" / chunk_key(index.chunk(0).name)


def flip(path: Path) -> bytes:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    return bytes(data)


def verified(scene: Scene, **options: object) -> StoreVerified:
    (one,) = verify_checkpoints(scene.site, "g", options=VerifyOptions(**options)).stores  # type: ignore[arg-type]
    return one


# -- damaged chunks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["damaged", "missing"])
@pytest.mark.parametrize("merge", [True, False])
def test_after_damage_was_found_the_next_night_mends_it(how: str, merge: bool, scene: Scene) -> None:
    nights = []
    for number in range(2):
        scene.write_night(sector(number * 3))
        nights.append(scene.view)
        take(scene, store_of(scene), MERGE if merge else None)
        if merge:
            scene.merged()
    path = first_chunk(scene, 2)
    found = flip(path) if how == "damaged" else path.unlink()
    report = verified(scene)
    assert {str(hurt) for hurt in report.verified.damages[0].hurt} >= {"g var 2"}
    aside = f"{DAMAGED}{path.name}"
    assert report.aside == ((aside,) if found else ())
    assert not found or (scene.directory / "store" / aside).read_bytes() == found
    assert report.undone == ()

    scene.write_night(sector(400))
    third = take(scene, store_of(scene))
    assert third.read_whole is (merge or "base" in str(report.verified.damages[0].hurt))
    assert third.why is (Why.LOST if third.read_whole else Why.KNOWN)
    for number, image in zip([1, 2, third.number], [*nights, scene.view], strict=True):
        scene.assert_recorded(store_of(scene), number, image)
    assert verified(scene).verified.is_sound
    assert [row.damage for row in list_checkpoints(scene.site).checkpoints] == ["", "", ""]


def test_a_rehearsal_leaves_damage_where_it_is(scene: Scene) -> None:
    take(scene, store_of(scene))
    path = first_chunk(scene, 1)
    damaged = flip(path)
    assert not verified(scene, dry_run=True).verified.is_sound
    assert path.read_bytes() == damaged
    assert scene.base_state() is not None


def test_a_chunk_that_is_sound_when_it_is_read_again_stays(scene: Scene) -> None:
    store = store_of(scene)
    take(scene, store)
    names = [*parse(store.get(index_key("g", 1))).names(), bytes(32)]
    damages = [Damage(chunk_key(name), Condition.DAMAGED, "it was, a moment ago", ()) for name in names]
    assert set_aside(store, damages) == Aside()
    assert verify(store).is_sound


def test_nothing_is_set_aside_while_somebody_writes(scene: Scene) -> None:
    take(scene, store_of(scene))
    path = first_chunk(scene, 1)
    flip(path)
    with store_of(scene).writing("g"):
        report = verified(scene)
    assert not report.verified.is_sound
    assert path.exists()
    assert len(report.undone) == 2
    assert "damaged chunks stay where they are" in report.undone[0]
    assert "not recorded in the history of g" in report.undone[1]
    with store_of(scene).writing("somebody"):
        assert len(verified(scene).undone) == 1
    assert not take(scene, store_of(scene)).read_whole  # reading all of it would find the chunk and store nothing
    assert verified(scene).aside
    assert take(scene, store_of(scene)).read_whole
    assert verified(scene).verified.is_sound


@pytest.mark.parametrize("reason", [OSError(errno.EIO, "Input/output error"), PermissionError(errno.EACCES, "denied")])
def test_a_chunk_that_cannot_be_read_is_moved_unless_it_may_not(
    reason: OSError, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(scene, store_of(scene))
    path, get = first_chunk(scene, 1), DirectoryStore.get
    bad = path.stat().st_ino

    def failing(self: DirectoryStore, key: str) -> bytes:
        if path.match(f"*/{key}") and path.exists() and path.stat().st_ino == bad:
            raise StorageError("cannot read") from reason
        return get(self, key)

    monkeypatch.setattr(DirectoryStore, "get", failing)
    report = verified(scene)
    assert report.verified.damages[0].condition is Condition.UNREADABLE
    may_not = isinstance(reason, PermissionError)
    assert path.exists() is may_not
    assert report.aside == (() if may_not else (f"{DAMAGED}{path.name}",))
    assert [note.startswith("a damaged chunk stays") for note in report.undone] == ([True] if may_not else [])
    assert take(scene, store_of(scene)).read_whole is not may_not
    assert verified(scene).verified.is_sound is not may_not


def test_damage_is_told_though_another_guests_history_is_broken(scene: Scene) -> None:
    take(scene, store_of(scene))
    (scene.directory / "guests/h").symlink_to("g")
    take_checkpoint(scene.site, "h", store=store_of(scene))
    flip(first_chunk(scene, 1))
    (scene.directory / "store" / record_key("h", 1)).write_bytes(b"{}")
    with pytest.raises(HistoryError):
        verified(scene)
    (scene.directory / "store" / record_key("h", 1)).unlink()
    report = verified(scene)
    assert report.aside
    assert [note.startswith("not recorded in the history of h") for note in report.undone] in ([], [True])


def test_damage_is_told_when_nothing_can_be_written(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise StorageError("cannot lock: Read-only file system")

    take(scene, store_of(scene))
    flip(first_chunk(scene, 1))
    monkeypatch.setattr(DirectoryStore, "writing", refuse)
    monkeypatch.setattr(DirectoryStore, "collecting", refuse)
    report = verified(scene)
    assert [damage.condition.value for damage in report.verified.damages] == ["damaged"]
    assert [note.endswith("Read-only file system") for note in report.undone] == [True, True]


# -- names ------------------------------------------------------------------------------------------------------------


def test_who_or_what_has_no_checkpoints_is_not_called_sound(scene: Scene) -> None:
    take(scene, store_of(scene))
    with pytest.raises(NoInputError, match="gg has no checkpoints"):
        verify_checkpoints(scene.site, "gg")
    with pytest.raises(NoInputError, match="vra"):
        verify_checkpoints(scene.site, "g", options=VerifyOptions(drive="vra"))
    with pytest.raises(NoInputError, match="gg has no checkpoints"):
        prune(scene.site, "gg", Policy(last=1))
    with pytest.raises(NoInputError, match="g has no checkpoints of drive vra"):
        prune(scene.site, "g", Policy(last=1), PruneOptions(drive="vra"))
    assert verified(scene, percent=Sample(1).percent).verified.is_sound


# -- several drives ---------------------------------------------------------------------------------------------------


def test_the_drives_of_a_take_are_of_one_moment_and_come_back_together(scene: Scene) -> None:
    scene.backing.with_name("home_fs").write_bytes(b"h" * 512)
    for _night in range(2):
        take_checkpoint(scene.site, "g", ["var", "home"], store=store_of(scene))
    rows = history.load(store_of(scene), "g")
    checkpoints = list(standing(record for record, _digest in rows).values())
    times = [one.time for one in checkpoints]
    assert times[0] == times[1] < times[2] == times[3]
    for number, both in {1: {1, 2}, 2: {1, 2}, 3: {3, 4}, 4: {3, 4}}.items():
        chosen = ways(scene.site.guest("g"), checkpoints, Wish(number=number, drives=("var", "home")))
        assert {one.number for _way, one in chosen.values() if one} == both


# -- what was lost ----------------------------------------------------------------------------------------------------


def test_a_store_that_is_not_mounted_gets_nothing(scene: Scene) -> None:
    take(scene, store_of(scene))
    (scene.directory / "store").rename(scene.directory / "elsewhere")
    (scene.directory / "store").mkdir()
    with pytest.raises(HistoryError, match="record 1 of g is missing"):
        take(scene, store_of(scene))
    assert list(store_of(scene).list(CHUNKS)) == []


def test_whoever_makes_the_catalog_anew_makes_it_whole(scene: Scene) -> None:
    take(scene, store_of(scene))
    other = Scene(scene.directory / "other", BASE)
    (other.directory / "guests/g").rename(scene.directory / "guests/h")
    take_checkpoint(scene.site, "h", store=store_of(scene))
    (scene.directory / CATALOG_NAME).unlink()
    take_checkpoint(scene.site, "h", store=store_of(scene))
    assert rows(scene) == [("g", 1), ("h", 1), ("h", 2)]


def rows(scene: Scene) -> list[tuple[str, int]]:
    return sorted((row.guest, row.number) for row in list_checkpoints(scene.site).checkpoints)


@pytest.mark.parametrize("way", ["take", "rebuild"])
def test_nothing_is_written_into_the_gap_of_a_history(way: str, scene: Scene) -> None:
    for _night in range(4):
        take(scene, store_of(scene))
    gone = scene.directory / "store" / record_key("g", 3)
    kept = gone.read_bytes()
    gone.unlink()
    (scene.directory / CATALOG_NAME).unlink()
    (scene.directory / "guests/h").symlink_to("g")
    if way == "take":
        take_checkpoint(scene.site, "h", store=store_of(scene))
        assert rows(scene) == [("h", 1)]
    else:
        with pytest.raises(HistoryError):
            rebuild_catalog(scene.site)
        assert rows(scene) == [("g", 1), ("g", 2)]
    with pytest.raises(HistoryError, match="record 3 of g is missing"):
        take(scene, store_of(scene))
    assert not gone.exists()
    gone.write_bytes(kept)
    assert take(scene, store_of(scene)).number == 5


def test_guests_of_other_sites_stay_out_of_the_catalog(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> None:
    shared = tmp_path_factory.mktemp("shared")
    (scene.directory / "umldisk.toml").write_text(f'[defaults]\nstore = "{shared}"\n')
    History(DirectoryStore(str(shared)), "theirs").record(Kind.TAG, 1, detail="x")
    take_checkpoint(scene.site, "g")
    assert rows(scene) == [("g", 1)]
    with Catalog.open(scene.directory / CATALOG_NAME, writable=False) as catalog:
        assert catalog.guests() == ["g"]


def test_a_store_out_of_reach_keeps_nobody_else_from_recording(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, there = [], DirectoryStore.list

    def listing(self: DirectoryStore, prefix: str) -> Iterator[Listed]:
        asked.append(self.location)
        if self.location.endswith("away"):
            raise StorageError("the connection broke")
        return there(self, prefix)

    monkeypatch.setattr(DirectoryStore, "list", listing)
    (scene.directory / "umldisk.toml").write_text('[guest.h]\nstore = "away"\n')
    take_checkpoint(scene.site, "g")
    assert rows(scene) == [("g", 1)]
    assert f"{scene.directory}/away" in asked
