"""Whom a guest's disks belong to: decided from facts alone, against a made-up machine."""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.kit.peers import needs
from umldisk.build.ownership import Ownership, find_barrier, plan_ownership
from umldisk.config.guest import Guest
from umldisk.image.drives import DRIVES, HOME, ROOT, SWAP, TMP, VAR
from umldisk.system.accounts import User
from umldisk.system.swapping import Standing


@dataclass
class _Machine:
    """Users and groups that exist only here."""

    users: dict[str, User] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)

    def own_name(self) -> str:
        return "builder"

    def user(self, name: str) -> User | None:
        return self.users.get(name)

    def group(self, name: str) -> int | None:
        return self.groups.get(name)


_BLACKDANCE = User("blackdance", 990, 991, (991, 800))


def _plan(*, name: str = "blackdance", user: str | None = None, is_root: bool = True, **facts: object) -> Ownership:
    machine = _Machine(**facts)  # type: ignore[arg-type]
    return plan_ownership(Guest(name, "/site/guests/x", user=user), is_root=is_root, accounts=machine)


def _accounts(*users: User, **groups: int) -> dict[str, object]:
    return {"users": {user.name: user for user in users}, "groups": groups}


def test_the_disks_of_a_guest_with_a_user_are_that_users_and_bases_are_shared() -> None:
    plan = _plan(**_accounts(_BLACKDANCE, blackdance=991, uml=800))
    assert plan.user == "blackdance"
    assert plan.directory == Standing(0o711, 990, 991)
    assert {plan.of_disk(drive) for drive in (ROOT, VAR, HOME)} == {Standing(0o440, 990, 800)}
    assert {plan.of_disk(drive) for drive in (TMP, SWAP)} == {Standing(0o600, 990, 991)}
    assert plan.manifest == Standing(0o640, 990, 991)
    assert plan.remarks == ()
    assert plan.group_is_private


def test_without_a_group_uml_bases_are_for_the_users_group() -> None:
    plan = _plan(**_accounts(_BLACKDANCE, blackdance=991))
    assert plan.of_disk(ROOT) == Standing(0o440, 990, 991)


def test_a_group_that_others_share_is_not_private() -> None:
    assert not _plan(**_accounts(_BLACKDANCE, users=991)).group_is_private


def test_without_the_user_all_is_roots_and_the_report_says_so() -> None:
    plan = _plan(groups={"uml": 800})
    assert plan.user == "root"
    assert plan.directory == Standing(0o711, 0, 0)
    assert plan.of_disk(ROOT) == Standing(0o440, 0, 800)
    assert plan.of_disk(SWAP) == Standing(0o600, 0, 0)
    assert plan.remarks == ("no user blackdance: the disks stay root's; --create-user makes one",)


def test_the_user_of_the_configuration_comes_before_the_guests_name() -> None:
    zeit = User("zeit", 1000, 1000)
    plan = _plan(user="zeit", **_accounts(_BLACKDANCE, zeit))
    assert plan.of_disk(TMP) == Standing(0o600, 1000, 1000)
    assert _plan(user="nobody-here", **_accounts(_BLACKDANCE)).remarks[0].startswith("no user nobody-here")


@pytest.mark.parametrize(
    ("name", "uid", "named", "adopted"),
    [
        ("root", 0, False, False),
        ("root", 0, True, False),
        ("toor", 0, True, False),
        ("mail", 8, False, False),
        ("mail", 8, True, True),
        ("nobody", 65534, False, False),
        ("uml-guest", 100, False, True),
        ("alice", 1000, False, True),
    ],
)
def test_accounts_of_the_system_are_not_taken_by_accident(name: str, uid: int, named: bool, adopted: bool) -> None:
    guest, user = ("x", name) if named else (name, None)
    plan = _plan(name=guest, user=user, **_accounts(User(name, uid, 77)))
    assert (plan.directory.uid == uid and plan.directory.gid == 77) is adopted
    assert (plan.user == name and plan.account is not None) is adopted
    assert bool(plan.remarks) is not adopted
    assert all("the disks stay root's" in remark for remark in plan.remarks)


@pytest.mark.parametrize("users", [{}, {"blackdance": _BLACKDANCE}])
def test_an_ordinary_users_disks_are_theirs_and_writable(users: dict[str, User]) -> None:
    plan = _plan(is_root=False, users=users, groups={"uml": 800})
    assert plan.user == "builder"
    assert plan.directory == Standing(0o700)
    assert {plan.of_disk(drive) for drive in DRIVES} == {Standing(0o600)}
    assert (plan.account, plan.remarks) == (None, ())


@needs("root")
@pytest.mark.parametrize(
    ("mode", "gid", "reached"),
    [(0o700, 5, False), (0o711, 5, True), (0o710, 5, False), (0o710, 800, True), (0o701, 800, False)],
)
def test_a_closed_directory_on_the_way_is_named(mode: int, gid: int, reached: bool) -> None:
    plan = _plan(**_accounts(_BLACKDANCE, blackdance=991))
    with tempfile.TemporaryDirectory(prefix="umldisk-") as closed:  # directly below /tmp, which is open
        os.chown(closed, 5, gid)
        os.chmod(closed, mode)
        remark = find_barrier(Guest("blackdance", f"{closed}/guests/blackdance"), plan)
    assert remark == (None if reached else f"user blackdance cannot reach the disks: {closed} has mode {mode:04o}")


def test_nobody_needs_a_way_to_what_stays_ones_own(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert find_barrier(Guest("x", str(tmp_path / "x")), _plan(is_root=False)) is None
