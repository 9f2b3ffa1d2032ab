"""Whom a guest's directory and disks belong to, decided as data before anything is made.

                        built by root                          built by an ordinary user
    GUEST/              owner:group   0711                     the user's, 0700
    root_fs (base)      owner:uml     0440                     the user's, 0600
    swap_fs (written)   owner:group   0600                     the user's, 0600
    manifest.json       owner:group   0640                     the user's, 0640

`owner` is the guest's own user, whom its kernel runs as; `group` is that user's first group. UML opens a base for
reading and takes a read lock on it, so that 0440 is enough, and makes COW files in the directory, which is why that is
its own. Members of the group uml, which are the other guests, may read a base and run COW files of their own on it:
they pass through the directory, but list nothing. Without a group uml a base is for the owner's group alone.

UML makes a COW file with mode 0644. So that nobody who passes can read it, the directory has a default ACL by which new
files are for their owner alone; on a file system without ACLs the directory is closed, 0700, and shares no bases.

Where there is no such user, all is root's in the same modes. An ordinary user's bases stay writable, so that they can
be merged into; a directory that an ordinary user had already keeps its mode.

Root is never taken for a guest's user. A guest that happens to be called like one of the accounts that come with the
system (mail, backup, proxy) does not get that account unless umldisk.toml names it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from umldisk.config.guest import Guest
from umldisk.image.drives import Drive
from umldisk.system.accounts import SHARED_GROUP, Accounts, SystemAccounts, User, reason_against
from umldisk.system.swapping import Standing

_TRAVERSED = 0o711


@dataclass(frozen=True, slots=True)
class Ownership:
    """How everything in a guest's directory, and the directory itself, shall stand.

    `user` is the name of the owner, `account` what is known of a guest's user, None when all stays with whoever builds.
    `closed_directory` is how the directory stands where its new files cannot be kept private. Directories above that
    have to be made get at least `parents_mode`. `group_is_private` says that the directory's
    group is its user's own. `remarks` are for the report.
    """

    user: str
    directory: Standing
    base: Standing
    writable: Standing
    manifest: Standing
    parents_mode: int
    account: User | None = None
    group_is_private: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def closed_directory(self) -> Standing:
        """How the directory shall stand where nobody else may pass through it."""
        return replace(self.directory, mode=0o700)

    def of_disk(self, drive: Drive) -> Standing:
        """Return how the drive's file shall stand."""
        return self.base if drive.copy_on_write else self.writable


def plan_ownership(guest: Guest, *, is_root: bool, accounts: Accounts | None = None) -> Ownership:
    """Decide by the table above; `accounts` knows users and groups, by default those of this machine."""
    accounts = accounts or SystemAccounts()
    if not is_root:
        return _of_builder(accounts.own_name())
    user = accounts.user(guest.owner)
    against = _objection(guest, user)
    if user is None or against:
        return _of_root(accounts, against or f"no user {guest.owner}: the disks stay root's; --create-user makes one")
    return _of_user(user, accounts)


def _objection(guest: Guest, user: User | None) -> str | None:
    reason = reason_against(user, is_named=guest.user is not None) if user else None
    return f"{reason}: the disks stay root's; name another with user = in umldisk.toml" if reason else None


def _of_builder(name: str) -> Ownership:
    return Ownership(
        user=name,
        directory=Standing(0o700),
        base=Standing(0o600),
        writable=Standing(0o600),
        manifest=Standing(0o640),
        parents_mode=0o700,
    )


def _of_user(user: User, accounts: Accounts) -> Ownership:
    shared = accounts.group(SHARED_GROUP)
    return Ownership(
        user=user.name,
        directory=Standing(_TRAVERSED, user.uid, user.gid),
        base=Standing(0o440, user.uid, user.gid if shared is None else shared),
        writable=Standing(0o600, user.uid, user.gid),
        manifest=Standing(0o640, user.uid, user.gid),
        parents_mode=_TRAVERSED,
        account=user,
        group_is_private=accounts.group(user.name) == user.gid,
    )


def _of_root(accounts: Accounts, remark: str) -> Ownership:
    return Ownership(
        user="root",
        directory=Standing(_TRAVERSED, 0, 0),
        base=Standing(0o440, 0, accounts.group(SHARED_GROUP) or 0),
        writable=Standing(0o600, 0, 0),
        manifest=Standing(0o640, 0, 0),
        parents_mode=_TRAVERSED,
        remarks=(remark,),
    )


def find_barrier(guest: Guest, ownership: Ownership) -> str | None:
    """Return a remark when the guest's user cannot reach the guest's directory, because one above it is closed.

    Looks at owner and permissions of those that exist; access control lists are not read.
    """
    if ownership.account is None:
        return None
    path = os.path.realpath(guest.directory)
    while path != os.path.dirname(path):
        path = os.path.dirname(path)
        try:
            standing = Standing.of(os.stat(path))
        except OSError:
            continue
        if not _may_pass(ownership.account, standing):
            return f"user {ownership.user} cannot reach the disks: {path} has mode {standing.mode:04o}"
    return None


def _may_pass(user: User, standing: Standing) -> bool:
    if standing.uid == user.uid:
        return bool(standing.mode & 0o100)
    if standing.gid in {user.gid, *user.groups}:
        return bool(standing.mode & 0o010)
    return bool(standing.mode & 0o001)
