"""Users and groups of this machine: found through the system's own databases, made by the system's own programs.

The user that a guest runs as needs nothing but a number of its own: no password, no shell, no home. It has a group of
its own name, and is a member of the group uml, in which guests share what they may all read.

Creating is repeatable. What exists and fits is left as it is; what exists and does not fit (root, an account that comes
with the system, a group of that name that might grant something, such as `disk`) is refused, never changed.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from umldisk.errors import StorageError, UsageError
from umldisk.system.process import Completed, run

SHARED_GROUP = "uml"
"""The group of all guests' users."""

_T = TypeVar("_T")

_PACKAGE = "passwd"
_NOBODY_UID = 65534
_FIRST_DYNAMIC_UID = 100
"""Below it are the accounts that every Debian system has (Debian policy, section 9.2.2)."""

_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
"""What useradd and groupadd take everywhere (useradd(8), CAVEATS); some take more."""

_NO_SHELLS = ("nologin", "false")
_BAD_NAME, _EXISTS = 3, 9
"""Exit statuses of useradd and groupadd: an invalid argument, a name in use (useradd(8), groupadd(8))."""


@dataclass(frozen=True, slots=True)
class User:
    """A user with its first group and the numbers of all its `groups`; `may_log_in` when it has a login shell."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    may_log_in: bool = False


class Accounts(Protocol):
    """Who knows users and groups."""

    def own_name(self) -> str:
        """Return the name of the user that we are, or the number where there is no name."""

    def user(self, name: str) -> User | None:
        """Return the user called `name`, or None."""

    def group(self, name: str) -> int | None:
        """Return the number of the group called `name`, or None."""


class SystemAccounts:
    """The users and groups of this machine, looked up anew every time."""

    def own_name(self) -> str:
        """Return the name of the user that we are, or the number where there is no name."""
        try:
            return pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            return str(os.geteuid())

    def user(self, name: str) -> User | None:
        """Return the user called `name`, or None."""
        try:
            entry = pwd.getpwnam(name)
        except (KeyError, ValueError):
            return None
        groups = tuple(os.getgrouplist(name, entry.pw_gid))
        may_log_in = os.path.basename(entry.pw_shell) not in _NO_SHELLS
        return User(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, may_log_in)

    def group(self, name: str) -> int | None:
        """Return the number of the group called `name`, or None."""
        try:
            return grp.getgrnam(name).gr_gid
        except (KeyError, ValueError):
            return None


def reason_against(user: User, *, is_named: bool) -> str | None:
    """Return why a guest must not run as `user`, or None; `is_named` when the user was chosen by name."""
    if user.uid == 0:
        return f"user {user.name} is the superuser"
    if not is_named and (user.uid < _FIRST_DYNAMIC_UID or user.uid == _NOBODY_UID):
        return f"user {user.name} belongs to the system"
    return None


def useradd_argv(name: str) -> list[str]:
    """Return the command that makes the user of a guest; useradd locks the password of whoever is given none."""
    return [
        "useradd",
        "--system",
        "--user-group",
        f"--groups={SHARED_GROUP}",
        "--comment=User-mode Linux guest",
        "--home-dir=/nonexistent",
        "--no-create-home",
        "--shell=/usr/sbin/nologin",
        name,
    ]


def require_root(name: str) -> None:
    """Raise UsageError unless we may make the user `name`."""
    if os.geteuid() != 0:
        raise UsageError("only root can make a user", where=name, hint="without --create-user the disks are yours")


def create_user(name: str, *, is_named: bool = False) -> User:
    """Make a system user `name` with its own group and the group uml, unless it exists, and return it.

    An existing user is returned unchanged, except that one without a login joins the group uml. Raises UsageError when
    we are not root, the name is none for a user or belongs to somebody whom a guest must not run as; NoInputError when
    useradd is missing, StorageError when it fails.
    """
    require_root(name)
    accounts = SystemAccounts()
    user = accounts.user(name)
    if user is not None:
        return _adopt(user, accounts, is_named=is_named)
    if not _NAME.fullmatch(name):
        raise _bad_name(name)
    if name == SHARED_GROUP or accounts.group(name) is not None:
        raise UsageError(
            "the name of a group that is not this user's own",
            where=name,
            hint="choose another name with user = in umldisk.toml, or make the user by hand",
        )
    _require_shared_group(accounts)
    _add(useradd_argv(name), name)
    return _require(accounts.user(name), name)


def _adopt(user: User, accounts: Accounts, *, is_named: bool) -> User:
    reason = reason_against(user, is_named=is_named)
    if reason:
        raise UsageError(reason, where=user.name, hint="choose another user with user = in umldisk.toml")
    if user.may_log_in or user.uid < _FIRST_DYNAMIC_UID or _require_shared_group(accounts) in user.groups:
        return user
    run(["usermod", "--append", f"--groups={SHARED_GROUP}", user.name], package=_PACKAGE)
    return _require(accounts.user(user.name), user.name)


def _require_shared_group(accounts: Accounts) -> int:
    """Return the number of the group uml, which is made when it is missing."""
    if accounts.group(SHARED_GROUP) is None:
        _add(["groupadd", "--system", SHARED_GROUP], SHARED_GROUP)
    return _require(accounts.group(SHARED_GROUP), SHARED_GROUP)


def _add(argv: Sequence[str], name: str) -> Completed:
    """Run useradd or groupadd; that somebody else was quicker is no failure."""
    done = run(argv, package=_PACKAGE, accepted=(0, _BAD_NAME, _EXISTS))
    if done.status == _BAD_NAME:
        raise _bad_name(name)
    return done


def _bad_name(name: str) -> UsageError:
    return UsageError(
        "not a name for a user",
        where=name or "empty",
        expected="1 to 32 lower-case letters, digits, hyphens and underscores, no digit or hyphen first",
        hint="choose another name with user = in umldisk.toml",
    )


def _require(found: _T | None, name: str) -> _T:
    if found is None:
        raise StorageError("the account was made and cannot be found", where=name)
    return found
