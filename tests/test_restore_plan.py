"""What a restore will do, decided without touching a file."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.kit.restorable import HOME, ROOT, SWAP, TMP, VAR
from umldisk.checkpoint.basestate import BackingIdentity, BaseState
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.record import Consistency, Kind, Record, Taken
from umldisk.config.guest import Guest
from umldisk.errors import DataError, NoInputError, UmldiskError, UsageError
from umldisk.image.drives import Content, Drive
from umldisk.ops.restoring import planning
from umldisk.ops.restoring.planning import BaseFacts, Way, Wish, ways

_ANY = Wish()
_DAY = datetime(2026, 11, 1, 3, 0, tzinfo=UTC)
_SRV = Drive("srv", 5, "/srv", copy_on_write=False)
_GUEST = Guest("x", "/g/x", (ROOT, VAR, HOME, TMP, SWAP, _SRV))


def _checkpoint(number: int, drive: str = "var", *, day: float = 0, **state: object) -> Checkpoint:
    taken = Taken(drive, 1, f"{number:064x}", None, None, 0, 0, 0, False, Consistency.OFF, False, 0.0)
    time = _DAY + timedelta(days=day or number)
    record = Record("x", number, time, Kind.CHECKPOINT, "", "h", "1", taken)
    return replace(Checkpoint(record, taken), **state)  # type: ignore[arg-type]


_NIGHTS = [_checkpoint(1), _checkpoint(2), _checkpoint(3, "home"), _checkpoint(4), _checkpoint(5, "srv")]


def _numbers(wish: Wish, checkpoints: list[Checkpoint] | None = None) -> dict[str, object]:
    """Map drives to the number of their checkpoint, or to the way they come back without one."""
    chosen = ways(_GUEST, _NIGHTS if checkpoints is None else checkpoints, wish)
    return {drive.name: one.number if one else way for drive, (way, one) in chosen.items()}


_REST: dict[str, object] = {"root": Way.EMPTY_COW, "home": Way.EMPTY_COW, "tmp": Way.NEW, "swap": Way.NEW}


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (Wish(), _REST | {"var": 4, "srv": 5}),
        (Wish(drives=("var",)), {"var": 4}),
        (Wish(drives=("home", "swap")), {"home": 3, "swap": Way.NEW}),
        (Wish(drives=("root",)), {"root": Way.EMPTY_COW}),
        (Wish(number=1, drives=("var",)), {"var": 1}),
        (Wish(number=3, drives=("home", "var")), {"home": 3, "var": 2}),
        (Wish(at=_DAY + timedelta(days=4), drives=("var",)), {"var": 4}),
        (Wish(at=_DAY + timedelta(days=4, seconds=-1), drives=("var", "home")), {"var": 2, "home": 3}),
    ],
)
def test_which_checkpoint_each_drive_gets(wish: Wish, expected: dict[str, object]) -> None:
    assert _numbers(wish) == expected


def test_a_number_of_another_drive_adds_that_drive_and_gives_the_time_for_var() -> None:
    assert _numbers(Wish(number=3), [*_NIGHTS[:4]]) == _REST | {"home": 3, "var": 2, "srv": Way.KEPT}


def test_what_is_damaged_or_deleted_is_passed_over() -> None:
    nights = [_checkpoint(1), _checkpoint(2, damage="chunk gone"), _checkpoint(3, deleted_at=_DAY)]
    assert _numbers(Wish(drives=("var",)), nights) == {"var": 1}


def test_the_newest_is_told_by_time_not_by_number() -> None:
    """The clock was set back between the two."""
    nights = [_checkpoint(1, day=9), _checkpoint(2, day=8)]
    assert _numbers(Wish(drives=("var",)), nights) == {"var": 1}
    assert _numbers(Wish(drives=("var",), at=_DAY + timedelta(days=8)), nights) == {"var": 2}


@pytest.mark.parametrize(
    ("wish", "nights", "error", "words"),
    [
        (Wish(drives=("opt",)), _NIGHTS, UsageError, "no such drive"),
        (Wish(number=9), _NIGHTS, NoInputError, "no checkpoint 9"),
        (Wish(number=1, drives=("home",)), _NIGHTS, UsageError, "another drive"),
        (Wish(number=1), [_checkpoint(1, deleted_at=_DAY)], NoInputError, "deleted"),
        (Wish(number=1), [_checkpoint(1, damage="chunk gone")], DataError, "chunk gone"),
        (Wish(), [], NoInputError, "no good checkpoint of drive var"),
        (Wish(at=_DAY), _NIGHTS, NoInputError, "2026-11-01 03:00:00 UTC"),
        (Wish(at=_DAY, drives=("home",)), _NIGHTS, NoInputError, "drive home"),
        (Wish(at=_DAY + timedelta(days=9), drives=("root", "swap")), _NIGHTS, UsageError, "root, swap"),
    ],
)
def test_what_cannot_be_is_refused(wish: Wish, nights: list[Checkpoint], error: type[UmldiskError], words: str) -> None:
    with pytest.raises(error, match=words):
        ways(_GUEST, nights, wish)


def _plan(present: set[str], wish: Wish = _ANY) -> planning.RestorePlan:
    return planning.plan_restore(
        _GUEST,
        ways(_GUEST, _NIGHTS, wish),
        wish=wish,
        bases={name: BaseFacts(f"digest of {name}", "manifest.json") for name in ("root", "home")},
        present=present,
        time=_DAY,
        evidence="x-1",
        known={"home": _KNOWN},
    )


_KNOWN = BaseState("x", "home", "7" * 64, BackingIdentity(1, 2, 3, 4, 5))
_ALL = {"root_fs", "root_cow", "var_fs", "var_cow", "home_fs", "home_cow", "tmp_fs", "swap_fs", "srv_fs", "notes"}


def test_the_work_of_the_guest_and_what_is_replaced_leaves() -> None:
    plan = _plan(_ALL)
    assert plan.leaving == ("root_cow", "var_cow", "var_fs", "home_cow", "tmp_fs", "swap_fs", "srv_fs")
    assert (plan.root, plan.guard) == ("root_fs", "root_fs")


def test_only_what_is_there_leaves_journals_included() -> None:
    journal = "var_fs.umldisk-journal"
    plan = _plan({"root_fs", "home_fs", "var_fs", journal})
    assert plan.leaving == ("var_fs", journal)


def test_drives_that_are_not_asked_for_stay_but_root_keeps_guests_from_starting() -> None:
    plan = _plan(_ALL, Wish(drives=("var",)))
    assert plan.leaving == ("var_cow", "var_fs")
    assert plan.guard == "root_fs"


def test_a_root_that_is_replaced_guards_by_leaving() -> None:
    nights = [_checkpoint(1), _checkpoint(2, "root")]
    wish = Wish(drives=("root",))
    plan = planning.plan_restore(
        _GUEST, ways(_GUEST, nights, wish), wish=wish, bases={}, present=_ALL, time=_DAY, evidence="x-1", known={}
    )
    assert plan.leaving == ("root_cow", "root_fs")
    assert (plan.root, plan.guard) == ("root_fs", None)


def test_the_plan_reads_as_a_list_of_steps() -> None:
    assert _plan({"var_cow", "var_fs"}).lines() == [
        "keep var_cow, var_fs in evidence/x-1",
        "root: a fresh root_cow over root_fs, which is as manifest.json says",
        "var: var_fs from checkpoint 4 of 2026-11-05 03:00:00 UTC, with a fresh var_cow",
        "home: a fresh home_cow over home_fs, which is as manifest.json says",
        "tmp: a new, empty tmp_fs",
        "swap: a new, empty swap_fs",
        "srv: srv_fs from checkpoint 5 of 2026-11-06 03:00:00 UTC",
    ]
    kept = planning.DrivePlan("srv", Way.KEPT, "srv_fs", None)
    assert "stays as it is" in replace(_plan(_ALL), drives=(kept,)).lines()[1]


@pytest.mark.parametrize("wish", [Wish(), Wish(number=5), Wish(at=_DAY + timedelta(days=4), drives=("var", "root"))])
def test_a_plan_is_read_as_it_was_written(wish: Wish) -> None:
    plan = _plan(_ALL, wish)
    assert planning.parse(plan.build()) == plan


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-5],
        lambda text: text.replace(b'"format": 1', b'"format": 2'),
        lambda text: text.replace(b'"x-1"', b'"../x"'),
        lambda text: text.replace(b'"leaving"', b'"staying"'),
        lambda text: text.replace(b'"checkpoint"', b'"teleport"'),
        lambda _text: b"[]",
    ],
)
def test_anything_else_is_no_plan(change: object) -> None:
    assert callable(change)
    with pytest.raises(DataError):
        planning.parse(change(_plan(_ALL).build()), where="plan.json")


def test_evidence_gets_a_name_of_its_own() -> None:
    first = planning.evidence_name("x", _DAY, [])
    assert first == "x-20261101T030000Z"
    assert planning.evidence_name("x", _DAY, [first]) == f"{first}-2"
    assert planning.evidence_name("x", _DAY, [first, f"{first}-2", "y"]) == f"{first}-3"


def test_swap_and_tmp_are_scratch_and_a_kept_tmp_is_not() -> None:
    scratch = [drive.name for drive in _GUEST.drives if planning.is_scratch(drive)]
    assert scratch == ["tmp", "swap"]
    assert not planning.is_scratch(replace(TMP, copy_on_write=True))
    assert planning.is_scratch(replace(SWAP, content=Content.SWAP, mount_point=None))
