"""The whole life of a guest without root, and the life of one that root starts as a user of its own."""

import contextlib
import grp
import os
import secrets
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.peers import needs
from tests.kit.sites import NAME, SMALL, WAIT_SECONDS, BuiltSite, until
from tests.kit.user_environment import UserSite, accounts_to_ourselves, admin, ordinary_user, remove_account
from umldisk.guest.state import RunState, read_end
from umldisk.system.accounts import SHARED_GROUP, SystemAccounts, User
from umldisk.system.pids import ProcessId, children, session_members

_AS_ROOT = ("root", "useradd", "userdel", "groupdel", "setpriv", "unshare") if os.geteuid() == 0 else ()
_OTHER = "mirage"

pytestmark = [
    needs("linux", "bwrap", "setarch", "mke2fs", "e2fsck", "busybox", *_AS_ROOT),
    pytest.mark.real,
    pytest.mark.guest,
    pytest.mark.slow,
]


def _status_of(process: ProcessId) -> dict[str, str]:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _colon, value in (line.partition(":") for line in lines)}


def _inside(state: RunState) -> list[ProcessId]:
    """Return all processes in the guest's jail: its init and what comes from that."""
    found = [state.kernel]
    for process in found:
        found += children(process)
    return found


def _all_of(state: RunState) -> list[ProcessId]:
    return list(dict.fromkeys([state.supervisor, *session_members(state.leader), *_inside(state)]))


def _require_jailed(state: RunState, *, uid: int, gid: int) -> None:
    """Require that the guest's processes are the user's and can never be anybody else's."""
    statuses = []
    for process in _inside(state):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            statuses.append(_status_of(process))
    assert len(statuses) >= 3  # the init of the jail, the kernel, and a process of the guest
    for status in statuses:
        assert (status["Uid"].split(), status["Gid"].split()) == ([str(uid)] * 4, [str(gid)] * 4)
        assert {status[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {""}
        assert status["NoNewPrivs"] == "1"


def _standing(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def _records(site: BuiltSite) -> list[str]:
    return site.shell("cat /var/records").split()


def _write_records(site: BuiltSite, first: int, last: int) -> None:
    site.shell(f"n={first}; while [ $n -le {last} ]; do echo $n >>/var/records; n=$((n + 1)); done; sync")


def _start(site: BuiltSite, name: str = NAME) -> RunState:
    assert site.good("start", "--json", name).json["jailed"]
    site.good("wait", "--timeout", str(WAIT_SECONDS), name)
    return site.state(name)


class TestWithoutRoot:
    """An ordinary user does everything, in the site that umldisk finds by itself."""

    def test_a_life(self) -> None:
        with ordinary_user(data_home="data") as site:
            site.user.write(site.directory / "umldisk.toml", SMALL)
            site.good("build", "-q", NAME)
            first = _start(site)
            self._require_users_own(site, first)
            _write_records(site, 1, 50)
            taken = site.good("checkpoint", "take", "--json", NAME).json
            assert taken["consistency"] == "journal"
            assert first.is_alive()
            _write_records(site, 51, 80)
            site.shell("echo trojan >/usr/bin/trojan; sync")
            self._stop(site, first)
            site.good("restore", "-q", NAME)
            second = _start(site)
            assert _records(site) == [str(number) for number in range(1, 51)]
            assert "No such file" in site.shell("ls /usr/bin/trojan 2>&1; true")
            self._stop(site, second)
            self._require_nothing_of_others(site)

    def _require_users_own(self, site: UserSite, state: RunState) -> None:
        uid, gid = site.user.uid, site.user.gid
        _require_jailed(state, uid=uid, gid=gid)
        assert _status_of(state.supervisor)["Uid"].split() == [str(uid)] * 4
        assert state.socket_directory == str(site.run / "uml")
        (said,) = site.good("status", "--json", NAME).json["guests"]
        assert (said["state"], said["pid"], said["jailed"]) == ("ready", state.kernel.pid, True)
        who = site("who", "--json", site.guest / "var_cow")
        assert who.code == 1
        assert [hold["guest"] for hold in who.json["files"][0]["holds"]] == [NAME]

    def _stop(self, site: UserSite, state: RunState) -> None:
        processes = _all_of(state)
        (stopped,) = site.good("stop", "--json", NAME).json["guests"]
        assert (stopped["needed"], stopped["clean"]) == ("cad", True)
        end = read_end(str(site.run))
        assert end is not None
        assert end.status == 0
        for process in processes:
            assert process.wait(WAIT_SECONDS)
        if site.user.is_made:
            until(lambda: not site.user.processes())
        (said,) = site.good("status", "--json", NAME).json["guests"]
        assert (said["state"], said["pid"]) == ("stopped", None)
        assert said["checkpoint"] is not None
        site.good("who", site.guest / "var_cow")

    def _require_nothing_of_others(self, site: UserSite) -> None:
        paths = [site.directory, *site.directory.rglob("*")]
        assert {site.guest / "var_cow", site.run / "console.log", site.directory / "evidence"} <= set(paths)
        own = (site.user.uid, site.user.gid)
        assert not [path for path in paths if _standing(path)[:2] != own]

    def test_where_paths_are_too_long_for_sockets(self) -> None:
        with ordinary_user(data_home="/".join(["directory"] * 10)) as site:
            assert not site.directory.exists()  # build makes it, and there is no umldisk.toml
            site.good("build", "-q", NAME)
            state = _start(site)
            above = Path(state.socket_directory).parent
            assert str(above) == f"/tmp/umldisk-{site.user.uid}"
            status = above.stat()
            assert (status.st_uid, status.st_mode & 0o077) == (site.user.uid, 0)
            assert site.good("console", NAME, "--", "version").out.startswith(f"Linux {NAME}")
            (said,) = site.good("status", "--json", NAME).json["guests"]
            assert (said["state"], said["pid"]) == ("ready", state.kernel.pid)
            self._stop_from_afar(site, state)

    def _stop_from_afar(self, site: UserSite, state: RunState) -> None:
        processes = _all_of(state)
        (stopped,) = site.good("stop", "--json", NAME).json["guests"]
        assert (stopped["needed"], stopped["clean"], stopped["status"]) == ("cad", True, 0)
        for process in processes:
            assert process.wait(WAIT_SECONDS)
        assert not os.path.lexists(state.socket_directory)


@pytest.fixture
def users() -> Iterator[dict[str, str]]:
    """Give each of two guests an unused name for its user, and remove all accounts that were made."""
    names = {guest: f"umldisk-{secrets.token_hex(5)}" for guest in (NAME, _OTHER)}
    with accounts_to_ourselves():
        had_group = SystemAccounts().group(SHARED_GROUP) is not None
        try:
            yield names
        finally:
            for name in names.values():
                remove_account(name)
            if not had_group and SHARED_GROUP in {entry.gr_name for entry in grp.getgrall()}:
                admin("groupdel", SHARED_GROUP)


@pytest.fixture
def site(users: dict[str, str]) -> Iterator[BuiltSite]:
    with tempfile.TemporaryDirectory(prefix="umldisk-", dir="/tmp") as directory:
        os.chmod(directory, 0o711)
        text = SMALL + "".join(f'[guest.{guest}]\nuser = "{user}"\n' for guest, user in users.items())
        site = BuiltSite(Path(directory))
        try:
            yield site.build(text, "--create-user").build(text, "--create-user", name=_OTHER)
        finally:
            site.end()


def _reads(user: User, path: Path) -> bool:
    command = ["dd", f"if={path}", "of=/dev/null", "count=1"]
    done = subprocess.run(
        command, user=user.uid, group=user.gid, extra_groups=user.groups, capture_output=True, check=False
    )
    return done.returncode == 0


@needs("root", "useradd", "userdel", "groupdel", "groupadd")
def test_guests_of_root_run_as_users_of_their_own(site: BuiltSite, users: dict[str, str]) -> None:
    accounts = SystemAccounts()
    found = {guest: user for guest, name in users.items() if (user := accounts.user(name))}
    own, other = found[NAME], found[_OTHER]
    disks, others_disks = site.guest, site.directory / "guests" / _OTHER
    others_state, state = _start(site, _OTHER), _start(site)
    _require_jailed(state, uid=own.uid, gid=own.gid)
    _require_jailed(others_state, uid=other.uid, gid=other.gid)
    assert _status_of(state.supervisor)["Uid"].split() == ["0"] * 4
    inside = Path(f"/proc/{state.kernel.pid}/root")
    for name in ("root_cow", "var_cow", "home_cow"):
        for path, user in ((disks / name, own), (others_disks / name, other)):
            assert _standing(path) == (user.uid, user.gid, 0o600)
            assert _reads(own, path) is (user == own)
            assert os.path.lexists(f"{inside}{path}") is (user == own)
    assert _standing(site.run) == (0, 0, 0o711)
    standings = {path.name: _standing(path) for path in site.run.iterdir()}
    assert standings.pop("uml") == (own.uid, own.gid, 0o700)
    assert {(uid, gid, mode & 0o077) for uid, gid, mode in standings.values()} == {(0, 0, 0)}
    before = {path.name: _standing(path) for path in disks.iterdir()}
    site.good("stop", "-q", NAME)
    assert {path.name: _standing(path) for path in disks.iterdir()} == before


@needs("root", "useradd", "userdel", "groupdel", "groupadd")
def test_what_root_records_and_restores_stays_the_users(site: BuiltSite, users: dict[str, str]) -> None:
    own = SystemAccounts().user(users[NAME])
    assert own is not None
    _start(site)
    _write_records(site, 1, 10)
    site.good("checkpoint", "take", "-q", NAME)
    _write_records(site, 11, 20)
    before = {path.name: _standing(path) for path in site.guest.iterdir()}
    site.good("stop", "-q", NAME)
    site.good("restore", "-q", NAME)
    state = _start(site)
    assert {path.name: _standing(path) for path in site.guest.iterdir()} == before
    _require_jailed(state, uid=own.uid, gid=own.gid)
    assert _records(site) == [str(number) for number in range(1, 11)]
    site.good("stop", "-q", NAME)
