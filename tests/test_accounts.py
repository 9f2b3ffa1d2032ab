"""Users and groups of the machine: looked up, made for real and removed again."""

import fcntl
import grp
import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.kit.faults import without_rights
from tests.kit.peers import needs
from umldisk.errors import StorageError, UsageError
from umldisk.system.accounts import SHARED_GROUP, SystemAccounts, User, create_user, reason_against

_SHELLS = {"/usr/sbin/nologin": False, "/bin/false": False, "/bin/sh": True, "": True}


def _tool(*command: str, check: bool = True) -> None:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    found = shutil.which(command[0], path=path)
    assert found is not None
    subprocess.run([found, *command[1:]], check=check, capture_output=True)


@pytest.fixture
def name() -> Iterator[str]:
    """Give an unlikely name for a user, and leave neither user nor group of it, nor a group uml that was not there.

    One test at a time: useradd does not wait for another one to end.
    """
    unlikely = f"umldisk-{secrets.token_hex(5)}"
    with open(__file__, "rb") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        had_group = SystemAccounts().group(SHARED_GROUP) is not None
        try:
            yield unlikely
        finally:
            if SystemAccounts().user(unlikely):
                _tool("userdel", unlikely)
            if SystemAccounts().group(unlikely) is not None:
                _tool("groupdel", unlikely)
            if not had_group and SystemAccounts().group(SHARED_GROUP) is not None:
                _tool("groupdel", SHARED_GROUP)


real = needs("root", "useradd", "userdel", "groupadd", "groupdel", "usermod")


@real
def test_a_made_user_is_a_system_user_without_login_or_home(name: str) -> None:
    made = create_user(name)
    entry = pwd.getpwnam(name)
    assert 0 < entry.pw_uid < 1000
    assert (entry.pw_dir, entry.pw_shell) == ("/nonexistent", "/usr/sbin/nologin")
    assert grp.getgrgid(entry.pw_gid).gr_name == name
    assert name in grp.getgrnam(SHARED_GROUP).gr_mem
    assert _password(name) in {"!", "*", "!!"}
    assert not os.path.exists(entry.pw_dir)
    shared = grp.getgrnam(SHARED_GROUP).gr_gid
    assert (made.name, made.uid, made.gid) == (name, entry.pw_uid, entry.pw_gid)
    assert set(made.groups) == {entry.pw_gid, shared}
    assert not made.may_log_in


def _password(name: str) -> str:
    with open("/etc/shadow", encoding="utf-8") as shadow:
        return next(line.split(":")[1] for line in shadow if line.startswith(f"{name}:"))


@real
def test_making_a_user_again_changes_nothing(name: str) -> None:
    first = create_user(name)
    with open("/etc/passwd", "rb") as users, open("/etc/group", "rb") as groups:
        before = users.read(), groups.read()
    assert create_user(name) == first
    with open("/etc/passwd", "rb") as users, open("/etc/group", "rb") as groups:
        assert (users.read(), groups.read()) == before


@real
def test_a_user_without_login_joins_the_shared_group(name: str) -> None:
    _tool("useradd", "--system", "--shell", "/bin/false", name)
    uid = pwd.getpwnam(name).pw_uid
    made = create_user(name)
    assert made.uid == uid
    assert grp.getgrnam(SHARED_GROUP).gr_gid in made.groups


@real
@pytest.mark.parametrize("is_named", [False, True])
def test_a_persons_account_is_left_as_it_is(name: str, is_named: bool) -> None:
    _tool("useradd", "--no-create-home", "--user-group", "--shell", "/bin/sh", name)
    groups = os.getgrouplist(name, pwd.getpwnam(name).pw_gid)
    made = create_user(name, is_named=is_named)
    assert made.may_log_in
    assert os.getgrouplist(name, made.gid) == groups == list(made.groups)


@real
def test_a_group_that_was_there_before_the_user_is_not_given_away(name: str) -> None:
    _tool("groupadd", "--system", name)
    with pytest.raises(UsageError, match="a group that is not this user's own"):
        create_user(name)
    assert SystemAccounts().user(name) is None


@real
def test_the_shared_group_is_nobodys_own(name: str) -> None:
    with pytest.raises(UsageError, match="a group that is not this user's own"):
        create_user(SHARED_GROUP)
    assert SystemAccounts().user(SHARED_GROUP) is None


@pytest.mark.parametrize("is_named", [False, True])
def test_root_is_never_taken(is_named: bool) -> None:
    with pytest.raises(UsageError, match="superuser") as refused:
        create_user("root", is_named=is_named)
    assert refused.value.hint == "choose another user with user = in umldisk.toml"


def test_an_account_of_the_system_is_taken_only_by_name() -> None:
    entry = pwd.getpwnam("daemon")
    with pytest.raises(UsageError, match="belongs to the system"):
        create_user("daemon")
    assert create_user("daemon", is_named=True).uid == entry.pw_uid


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "-x",
        "0day",
        "12345",
        "a" * 33,
        "a b",
        "a:b",
        "a,b",
        "a/b",
        "Blackdance",
        "a\nb",
        "\N{LATIN SMALL LETTER E}\u0301",
        "x$",
    ],
)
def test_a_name_that_useradd_would_refuse_is_refused_before(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umldisk.system.accounts.run", _never)
    with pytest.raises(UsageError, match="not a name for a user"):
        create_user(bad)


def _never(*_args: object, **_options: object) -> None:
    raise AssertionError("a program was run")


@real
@pytest.mark.parametrize("bad", ["a:b", "a b", "a" * 33])
def test_useradd_agrees_that_a_name_is_bad(bad: str, name: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        _tool("useradd", "--system", "--prefix", "/nonexistent-umldisk", bad)
    assert refused.value.returncode == 3
    assert b"invalid user name" in refused.value.stderr


@real
@pytest.mark.parametrize("good", ["a", "_x-9", "a" * 32])
def test_useradd_agrees_that_a_name_is_good(good: str, name: str) -> None:
    """That it is the missing file system below the prefix that stops it, and not the name."""
    with pytest.raises(subprocess.CalledProcessError) as refused:
        _tool("useradd", "--system", "--prefix", "/nonexistent-umldisk", good)
    assert b"invalid user name" not in refused.value.stderr


@real
def test_an_ordinary_user_cannot_make_one(name: str) -> None:
    _tool("groupadd", "--system", "--force", SHARED_GROUP)
    with without_rights(), pytest.raises(UsageError, match="only root can make a user"):
        create_user(name)
    assert SystemAccounts().user(name) is None


@real
def test_a_useradd_that_fails_has_its_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _tool("groupadd", "--system", "--force", SHARED_GROUP)
    monkeypatch.setattr("umldisk.system.accounts.useradd_argv", lambda name: ["useradd", "--uid=0", name])
    with pytest.raises(StorageError, match=r"useradd failed with status 4: .*UID 0 is not unique"):
        create_user(name)
    assert SystemAccounts().user(name) is None


def test_looking_up_what_is_there_and_what_is_not() -> None:
    found = SystemAccounts().user("root")
    assert found is not None
    assert (found.uid, found.gid) == (0, 0)
    assert SystemAccounts().group("root") == 0
    for missing in ("umldisk-no-such", "", "a\0b"):
        assert SystemAccounts().user(missing) is None
        assert SystemAccounts().group(missing) is None


def test_our_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SystemAccounts().own_name() == pwd.getpwuid(os.geteuid()).pw_name
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_001)
    assert SystemAccounts().own_name() == "4000000001"


@pytest.mark.parametrize("shell", _SHELLS)
def test_a_login_shell_is_told_from_none(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pwd.struct_passwd(("x", "x", 4242, 4242, "", "/", shell))
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: entry)
    monkeypatch.setattr(os, "getgrouplist", lambda _name, gid: [gid])
    assert SystemAccounts().user("x") == User("x", 4242, 4242, (4242,), may_log_in=_SHELLS[shell])


def test_why_a_user_is_unfit() -> None:
    assert reason_against(User("root", 0, 0), is_named=True) == "user root is the superuser"
    assert reason_against(User("proxy", 13, 13), is_named=False) == "user proxy belongs to the system"
    assert reason_against(User("proxy", 13, 13), is_named=True) is None
    assert reason_against(User("blackdance", 990, 990), is_named=False) is None
