"""Joins around checkpoints: names, the stores of a site, and what is done in all of them."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.kit.checkpoints import checkpoint
from tests.kit.commands import time_zone
from tests.kit.restorable import VAR, Broken, Clock, SmallerSite
from umldisk.checkpoint.catalog import CATALOG_NAME, Catalog
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.record import Kind
from umldisk.checkpoint.retention import Policy, parse_duration
from umldisk.checkpoint.store import record_key
from umldisk.checkpoint.verifying import Sample
from umldisk.config.site import Site
from umldisk.errors import BusyError, HistoryError, NoInputError, UsageError
from umldisk.ops.checkpoints import verifying
from umldisk.ops.checkpoints.listing import list_checkpoints
from umldisk.ops.checkpoints.marking import MarkOptions, mark
from umldisk.ops.checkpoints.naming import Name, find_checkpoint, parse_name, parse_time
from umldisk.ops.checkpoints.pruning import PruneOptions, collect, policy_words, prune
from umldisk.ops.checkpoints.rebuilding import rebuild_catalog
from umldisk.ops.checkpoints.storage import store_location, store_of, stores_of, vouched_guests
from umldisk.ops.checkpoints.verifying import VerifyOptions, make_anchor, verify_checkpoints

# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-20 03:15", "2026-11-20T02:15:59.999999"),
        ("2026-11-20T03:15:07", "2026-11-20T02:15:07.999999"),
        ("2026-11-20", "2026-11-20T22:59:59.999999"),
        ("2026-11-20 03:15Z", "2026-11-20T03:15:59.999999"),
        ("2026-11-20T03:15:07-02:30", "2026-11-20T05:45:07.999999"),
        ("2026-03-29", "2026-03-29T21:59:59.999999"),  # 23 hours long
        ("2026-10-25", "2026-10-25T22:59:59.999999"),  # 25 hours long
        ("2024-02-29", "2024-02-29T22:59:59.999999"),
    ],
)
def test_a_time_means_all_of_its_last_unit(text: str, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with time_zone("Europe/Berlin", monkeypatch):
        assert parse_name(text) == Name(at=datetime.fromisoformat(moment).replace(tzinfo=UTC))


@given(st.datetimes(timezones=st.just(UTC)).filter(lambda time: 1971 < time.year < 2100))
def test_what_a_list_shows_names_what_it_was_shown_for(taken: datetime) -> None:
    assume(not taken.astimezone().fold)  # of two hours with the same name the first is meant
    for shown in ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"):
        moment = parse_time(taken.astimezone().strftime(shown))
        assert taken <= moment
    assert moment - taken < timedelta(seconds=1)


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "1.0", "01", "Latest", "yesterday", "2026-11", "2026-13-01", "2026-02-29", "2026-11-20 24:00",
     "2026-11-20T", "2026-11-20Z", "2026-11-20 3:15", "2026-11-20 03:15 CET", "9999-12-31", "\uff11", "1" * 19],
)  # fmt: skip
def test_what_names_no_checkpoint(text: str) -> None:
    with pytest.raises(UsageError, match="not the name of a checkpoint"):
        parse_name(text)


class Shelf:
    """Stands in for a catalog: it has these checkpoints and nothing else."""

    def __init__(self, *checkpoints: Checkpoint) -> None:
        self._checkpoints = checkpoints

    def checkpoints(self, _guest: str, *, drive: str | None = None) -> list[Checkpoint]:
        return [one for one in self._checkpoints if one.deleted_at is None and drive in (None, one.drive)]


NIGHT = datetime(2026, 11, 20, 3, tzinfo=UTC)


def named(text: str, *checkpoints: Checkpoint, drive: str | None = None) -> int:
    return find_checkpoint(Shelf(*checkpoints), "blackdance", text, drive=drive).number  # type: ignore[arg-type]


def test_the_newest_is_the_newest_good_one_by_time() -> None:
    first, second = checkpoint(1, NIGHT), checkpoint(2, NIGHT + timedelta(days=1))
    damaged = checkpoint(3, NIGHT + timedelta(days=2), damage="x")
    deleted = checkpoint(4, NIGHT + timedelta(days=3), deleted=True)
    set_back = checkpoint(5, NIGHT - timedelta(days=1))
    assert named("latest", first, second, damaged, deleted, set_back) == 2
    assert named("2026-11-20 03:00Z", first, second, set_back) == 1
    assert named("2026-11-20 02:59Z", first, second, set_back) == 5
    with pytest.raises(NoInputError, match="no good checkpoint of var at or before"):
        named("2026-11-18", first, second, set_back)


def test_among_several_drives_var_is_meant_or_one_is_asked_for() -> None:
    root, var, home = (checkpoint(n, NIGHT, drive=d) for n, d in enumerate(("root", "var", "home"), 1))
    assert named("latest", root, var, home) == 2
    assert named("latest", root) == 1
    assert named("latest", root, home, drive="home") == 3
    with pytest.raises(UsageError, match="of which drive"):
        named("latest", root, home)
    with pytest.raises(NoInputError):
        named("latest", root, drive="var")


# -- the stores of a site ---------------------------------------------------------------------------------------------


class TwoStores(SmallerSite):
    """A site whose guest zeit has a store of its own."""

    def guest(self, name: str):  # type: ignore[no-untyped-def]
        from dataclasses import replace

        found = super().guest(name)
        return replace(found, store=f"{self.directory}/other") if name == "zeit" else found


@pytest.fixture
def two(tmp_path: Path) -> TwoStores:
    """Two nights of blackdance and of zeit, each in its store."""
    site = TwoStores(str(tmp_path))
    for name in ("blackdance", "zeit"):
        guest = Broken(site, name, clock=Clock(datetime(2024, 11, 18, tzinfo=UTC))).make()
        for sector in (8, 9):
            guest.night(sector)
    return site


def test_a_store_is_the_guests_or_the_sites(tmp_path: Path) -> None:
    (tmp_path / "umldisk.toml").write_text('[defaults]\nstore = "s3://backups/p"\n[guest.zeit]\nstore = "own"\n')
    site = Site(str(tmp_path))
    assert store_location(site, "zeit") == f"{tmp_path}/own"
    assert store_location(site, "other") == "s3://backups/p"
    (tmp_path / "umldisk.toml").unlink()
    assert store_of(Site(str(tmp_path)), "zeit").location == f"{tmp_path}/store"
    assert list(stores_of(Site(str(tmp_path)))) == [f"{tmp_path}/store"]
    assert os.listdir(tmp_path) == []


def test_take_and_the_rest_use_the_guests_store(two: TwoStores) -> None:
    assert os.path.exists(f"{two.directory}/other/{record_key('zeit', 2)}")
    assert not os.path.exists(f"{two.directory}/store/guests/zeit")
    assert list(stores_of(two)) == [f"{two.directory}/store", f"{two.directory}/other"]
    assert make_anchor(two, "zeit").number == 2
    assert mark(two, "zeit", Kind.PROTECT, ["1"]).record == 3
    report = verify_checkpoints(two)
    assert [[one.guest for one in store.proven] for store in report.stores] == [["blackdance"], ["zeit"]]
    assert report.is_sound
    assert [(one.guest, one.number) for one in list_checkpoints(two).checkpoints] == [
        ("blackdance", 1),
        ("blackdance", 2),
        ("zeit", 1),
        ("zeit", 2),
    ]


def test_all_stores_are_reclaimed_or_one_guests(two: TwoStores) -> None:
    for guest in ("blackdance", "zeit"):
        assert prune(two, guest, Policy(last=1)).removed == (1,)
    (own,) = collect(two, "zeit").stores
    assert (own.store, own.reclaimed.indexes_removed) == (f"{two.directory}/other", 1)
    assert [store.reclaimed.indexes_removed for store in collect(two).stores] == [1, 0]


def test_a_guest_that_vanished_from_its_store_stops_reclaiming_there(two: TwoStores) -> None:
    with Catalog.open(Path(two.directory) / CATALOG_NAME, writable=False) as catalog:
        assert vouched_guests(two, catalog, f"{two.directory}/other") == ["zeit"]
    for number in (1, 2):
        os.unlink(f"{two.directory}/other/{record_key('zeit', number)}")
    for act in (lambda: collect(two, "zeit"), lambda: verify_checkpoints(two)):
        with pytest.raises(HistoryError, match="record 1 of zeit is missing"):
            act()
    assert len(collect(two, "blackdance").stores) == 1


def test_a_catalog_is_made_anew_from_all_stores(two: TwoStores) -> None:
    before = list_checkpoints(two).checkpoints
    os.unlink(f"{two.directory}/{CATALOG_NAME}")
    report = rebuild_catalog(two)
    assert report.records == {"blackdance": 2, "zeit": 2}
    assert list_checkpoints(two).checkpoints == before


def test_a_history_that_was_left_in_another_store_does_not_count(two: TwoStores) -> None:
    """As after moving a store by a copy."""
    import shutil

    shutil.copytree(f"{two.directory}/other/guests/zeit", f"{two.directory}/store/guests/zeit")
    mark(two, "zeit", Kind.TAG, ["1"], tag="moved")
    assert rebuild_catalog(two).records == {"blackdance": 2, "zeit": 3}
    assert {one.tags for one in list_checkpoints(two, "zeit").checkpoints} == {("moved",), ()}
    report = verify_checkpoints(two)
    assert [[one.guest for one in store.proven] for store in report.stores] == [["blackdance"], ["zeit"]]
    assert rebuild_catalog(two).records == {"blackdance": 3, "zeit": 4}


def test_rebuilding_takes_what_comes_before_the_first_bad_record(two: TwoStores) -> None:
    os.unlink(f"{two.directory}/other/{record_key('zeit', 1)}")
    with pytest.raises(HistoryError, match="record 1 of zeit is missing"):
        rebuild_catalog(two)
    assert {one.guest for one in list_checkpoints(two).checkpoints} == {"blackdance"}


def test_nobody_adds_while_the_catalog_is_made_anew(two: TwoStores) -> None:
    with store_of(two, "zeit").writing("zeit"), pytest.raises(BusyError):
        rebuild_catalog(two)
    assert len(list_checkpoints(two).checkpoints) == 4


# -- what is asked for ------------------------------------------------------------------------------------------------


@given(
    st.builds(
        Policy,
        last=st.integers(0, 9),
        daily=st.integers(0, 9),
        yearly=st.integers(0, 9),
        within=st.none() | st.sampled_from(["1y2m3d4h", "5d"]).map(parse_duration),
        tags=st.lists(st.text(max_size=3), max_size=2).map(tuple),
    )
)
def test_a_policy_is_the_words_it_came_from(policy: Policy) -> None:
    """Reading the words again, as the command line does, gives the policy."""
    words = list(policy_words(policy))
    pairs = list(zip(words[::2], words[1::2], strict=True))
    counts = {
        option.removeprefix("--keep-"): int(value)
        for option, value in pairs
        if value.isdecimal() and option not in ("--keep-tag", "--keep-within")
    }
    within = [parse_duration(value) for option, value in pairs if option == "--keep-within"]
    tags = tuple(value for option, value in pairs if option == "--keep-tag")
    assert Policy(**counts, within=within[0] if within else None, tags=tags) == policy


def test_only_what_is_asked_for_is_verified_and_recorded(two: TwoStores) -> None:
    report = verify_checkpoints(two, "zeit", "2", VerifyOptions(percent=50))
    assert [[one.number for one in store.verified.checkpoints] for store in report.stores] == [[2]]
    by_number = {one.number: one.verified_at for one in list_checkpoints(two, "zeit").checkpoints}
    assert by_number[1] is None
    assert by_number[2] is not None
    assert all(one.verified_at is None for one in list_checkpoints(two, "blackdance").checkpoints)


def test_every_sample_is_another_one(two: TwoStores, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[str] = []

    def noting(percent: float, seed: str) -> Sample:
        seeds.append(seed)
        return Sample(percent, seed)

    monkeypatch.setattr(verifying, "Sample", noting)
    for _night in range(2):
        verify_checkpoints(two, "zeit", options=VerifyOptions(percent=5, dry_run=True))
    assert len(set(seeds)) == 2


def test_marks_of_another_host_are_seen_before_a_prune(two: TwoStores, tmp_path: Path) -> None:
    """Two sites share a store; what one protects the other's prune keeps, though its catalog has not seen it."""
    catalog = Path(two.directory) / CATALOG_NAME
    behind = catalog.read_bytes()
    mark(two, "zeit", Kind.PROTECT, ["1"], options=MarkOptions())
    catalog.write_bytes(behind)
    assert prune(two, "zeit", Policy(last=1), PruneOptions(zone=UTC)).removed == ()


def test_the_drive_is_the_only_one_that_is_pruned(two: TwoStores) -> None:
    guest = Broken(two, "zeit", clock=Clock(datetime(2024, 11, 21, tzinfo=UTC)))
    guest.take("home")
    guest.take("home")
    assert prune(two, "zeit", Policy(last=1), PruneOptions(drive="home", dry_run=True)).removed == (3,)
    assert prune(two, "zeit", Policy(last=1), PruneOptions(drive=VAR.name, dry_run=True)).removed == (1,)
