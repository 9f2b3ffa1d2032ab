"""Single files of a guest: understood by their readers, and edited without harm."""

import subprocess
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.golden.cases import BUSYBOX_FACTS, CASES, PLAIN, SYSTEMD_FACTS, SYSVINIT_FACTS
from tests.kit.peers import needs
from umldisk.build.files import accounts, fstab, inittab, machine_id, names, network, ssh
from umldisk.build.files.console import logs_in
from umldisk.build.files.edited import edited, edited_lines, joined
from umldisk.build.files.facts import BaseFacts, BaseFile, InitSystem
from umldisk.build.files.render import guest_entries
from umldisk.build.tree import Entry
from umldisk.config.guest import Guest
from umldisk.config.settings import Files, Interface, Login, Network
from umldisk.image.drives import DRIVES, VAR


def _text(entry: Entry) -> str:
    return b"".join(data for _, data in entry.inode.contents.pieces()).decode("utf-8", "surrogateescape")


def _texts(guest: Guest, facts: BaseFacts) -> dict[str, str]:
    return {entry.path: _text(entry) for entry in guest_entries(guest, facts, mtime_ns=0)}


def _with_login(login: Login, *, consoles: tuple[str, ...] = ("tty0",)) -> Guest:
    return replace(PLAIN, files=Files(login=login, consoles=consoles))


# fstab


@needs("findmnt")
@pytest.mark.parametrize("case", CASES)
def test_fstab_is_understood(case: str, tmp_path: Path) -> None:
    guest, facts = CASES[case]
    table = tmp_path / "fstab"
    table.write_text(fstab.fstab(guest, facts))
    command = ["findmnt", "--tab-file", str(table), "--noheadings", "--list", "--output", "TARGET"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert [point for point in listed if point != "/proc"] == [drive.mount_point or "none" for drive in guest.drives]


def test_the_drives_decide_the_fstab() -> None:
    moved = replace(VAR, mount_point="/srv", ubd=7)
    lines = fstab.fstab(Guest("x", "/x", (DRIVES[0], moved)), BUSYBOX_FACTS).splitlines()
    options = "ext4 noatime,errors=remount-ro 0 0"
    assert lines[1:] == [f"/dev/ubda / {options}", f"/dev/ubdh /srv {options}"]


@pytest.mark.parametrize("init", InitSystem)
@pytest.mark.parametrize("fsck", [True, False])
def test_only_root_is_checked_and_only_where_something_does(init: InitSystem, fsck: bool) -> None:
    rows = [row.split() for row in fstab.fstab(PLAIN, BaseFacts(init, fsck=fsck)).splitlines()[1:]]
    runs = init in (InitSystem.SYSVINIT, InitSystem.SYSTEMD, InitSystem.OTHER)
    assert {row[1]: row[5] for row in rows if row[5] != "0"} == ({"/": "1"} if fsck and runs else {})


# names


def test_the_name_is_where_it_belongs() -> None:
    named = {path for path, text in _texts(PLAIN, BUSYBOX_FACTS).items() if "blackdance" in text}
    assert named == {"/etc/hostname", "/etc/hosts", "/etc/init.d/rcS"}


def test_an_address_given_for_the_guest_itself_is_the_only_one() -> None:
    given_hosts = ((IPv4Address("192.0.2.1"), ("b.example", "blackdance")),)
    interface = Interface("eth0", IPv4Interface("10.1.0.6/30"))
    text = names.hosts(replace(PLAIN, files=Files(network=Network((interface,), hosts=given_hosts))))
    assert [line for line in text.splitlines() if "blackdance" in line] == ["192.0.2.1 b.example blackdance"]


def test_a_resolver_of_the_base_stays_until_a_nameserver_is_given() -> None:
    facts = replace(SYSTEMD_FACTS, resolv_conf_link="../run/systemd/resolve/stub-resolv.conf")
    with_server = replace(PLAIN, files=Files(network=Network(nameservers=(IPv4Address("192.0.2.53"),))))
    assert "/etc/resolv.conf" not in _texts(PLAIN, facts)
    assert _texts(with_server, facts)["/etc/resolv.conf"] == "nameserver 192.0.2.53\n"


# network


@pytest.mark.parametrize(
    ("facts", "path"),
    [
        (BaseFacts(InitSystem.SYSTEMD, networkd=True, ifupdown=True), "/etc/network/interfaces"),
        (BaseFacts(InitSystem.SYSTEMD, networkd=True), "/etc/systemd/network/10-eth0.network"),
        (BaseFacts(InitSystem.SYSVINIT, networkd=True), "/etc/network/interfaces"),
        (BaseFacts(InitSystem.OTHER), "/etc/network/interfaces"),
    ],
)
def test_one_manager_gets_the_interfaces(facts: BaseFacts, path: str) -> None:
    interface = Interface("eth0", IPv4Interface("10.1.0.6/30"))
    guest = replace(PLAIN, files=Files(network=Network((interface,))))
    written = [entry.path for entry in network.entries(guest, facts) if "wants" not in entry.path]
    assert written == [path]


def test_a_base_without_a_manager_gets_nothing_for_no_interface() -> None:
    assert network.entries(PLAIN, BaseFacts(InitSystem.SYSVINIT)) == []
    assert network.entries(PLAIN, BaseFacts(InitSystem.SYSTEMD, networkd=True)) == []


@needs("busybox")
@pytest.mark.parametrize("case", [case for case, (_, facts) in CASES.items() if facts.ifupdown and facts.ip])
def test_interfaces_are_understood(case: str, tmp_path: Path) -> None:
    guest, facts = CASES[case]
    table = tmp_path / "interfaces"
    table.write_text(network.interfaces(guest.files.network, facts))
    argv = ["busybox", "ifup", "-n", "-a", "-f", "-v", "-i", str(table)]
    shown = subprocess.run(argv, capture_output=True, text=True, check=False)
    said = shown.stdout + shown.stderr
    for interface in guest.files.network.interfaces:
        assert f"ip addr add {interface.address}" in said
        assert f"ip link set {interface.name} up" in said
        for route in interface.routes:
            assert f"ip route add {route.network} via {route.gateway}" in said
        if interface.gateway:
            assert f"ip route add default via {interface.gateway}" in said


# accounts and consoles


@pytest.mark.parametrize("case", CASES)
def test_no_account_gets_a_password_that_was_not_given(case: str) -> None:
    guest, facts = CASES[case]
    texts = _texts(guest, facts)
    path = "/etc/shadow" if "/etc/shadow" in {*texts, *facts.files} else "/etc/passwd"
    lines = texts.get(path, facts.text(path) or "").splitlines()
    usable = {line.split(":")[1] for line in lines} - {"!", "*", "x"}
    assert usable == ({guest.files.login.root_password} if guest.files.login.root_password else set())


def test_shadow_keeps_owner_mode_and_labels() -> None:
    known = BaseFile("root::1:::::\nother:\udcff:1:::::\n", 0o600, 7, 8, (("security.selinux", b"x"),))
    facts = replace(SYSVINIT_FACTS, files={**SYSVINIT_FACTS.files, "/etc/shadow": known})
    (entry,) = (entry for entry in accounts.entries(PLAIN, facts) if entry.path == "/etc/shadow")
    assert (entry.inode.mode, entry.inode.uid, entry.inode.gid, entry.inode.xattrs) == (0o600, 7, 8, known.xattrs)
    assert _text(entry) == "root:!:1:::::\nother:\udcff:1:::::\n"


def test_a_shadow_without_root_gets_one() -> None:
    facts = replace(SYSVINIT_FACTS, files={**SYSVINIT_FACTS.files, "/etc/shadow": BaseFile("bin:*:1:::::\n")})
    assert _texts(PLAIN, facts)["/etc/shadow"].splitlines()[0].startswith("root:!:")


def test_an_unchanged_file_is_left_alone() -> None:
    locked = BaseFile("root:!:19000:0:99999:7:::\n")
    facts = replace(SYSVINIT_FACTS, files={**SYSVINIT_FACTS.files, "/etc/shadow": locked})
    assert accounts.entries(PLAIN, facts) == []


_WORD = st.text(st.characters(exclude_characters=":\n"), max_size=5)


@given(st.lists(st.lists(_WORD, min_size=1, max_size=4)), st.integers(0, 4), _WORD)
def test_one_field_is_set_and_nothing_else(rows: list[list[str]], index: int, value: str) -> None:
    text = joined([":".join(row) for row in rows])
    wanted = [
        [value if row[0] == "root" and number == index else field for number, field in enumerate(row)] for row in rows
    ]
    assert accounts.with_field(text, "root", index, value) == joined([":".join(row) for row in wanted])


@pytest.mark.parametrize(
    ("login", "logged_in", "root_field"),
    [
        (Login(), True, "!"),
        (Login(ssh_keys=("k",)), True, "*"),
        (Login(root_password="$y$h"), False, "$y$h"),
        (Login(root_password="$y$h", console=True), True, "$y$h"),
        (Login(console=False), False, "!"),
    ],
)
def test_the_console_lets_in_whoever_has_no_other_way(login: Login, logged_in: bool, root_field: str) -> None:
    guest = _with_login(login)
    assert logs_in(guest) is logged_in
    assert accounts.password(guest) == root_field
    for facts in (BUSYBOX_FACTS, SYSVINIT_FACTS, SYSTEMD_FACTS):
        texts = _texts(guest, facts)
        assert ("/usr/local/sbin/console-login" in texts) is logged_in
        gettys = [line for path in texts for line in texts[path].splitlines() if "getty -n" in line]
        assert len(gettys) == logged_in


@pytest.mark.parametrize("facts", [BUSYBOX_FACTS, SYSVINIT_FACTS, SYSTEMD_FACTS])
def test_only_the_first_console_logs_in(facts: BaseFacts) -> None:
    texts = _texts(_with_login(Login(), consoles=("ttyS0", "tty0")), facts)
    gettys = [line for text in texts.values() for line in text.splitlines() if "getty -n" in line]
    assert len(gettys) == 1
    assert " ttyS0 linux" in gettys[0]


def test_without_consoles_nobody_is_let_in() -> None:
    for facts in (BUSYBOX_FACTS, SYSVINIT_FACTS, SYSTEMD_FACTS):
        lines = "\n".join(_texts(_with_login(Login(), consoles=()), facts).values()).splitlines()
        assert not [line for line in lines if "getty " in line and line[0] != "#"]


# inittab

_LINES = st.sampled_from(
    [
        *("id:2:initdefault:", "l2:2:wait:/etc/init.d/rc 2", "ca::ctrlaltdel:/sbin/reboot", "# a comment", "", "x"),
        *("1:23:respawn:/sbin/getty 38400 tty1", "u0:2:respawn:/bin/x", "us:2:respawn:/bin/x", "::", "a:b:c:"),
    ]
)


@given(st.lists(_LINES), st.booleans(), st.lists(st.sampled_from(["tty0", "tty1", "ttyS0"]), unique=True))
def test_an_inittab_is_edited_once_and_for_all(lines: list[str], keys: bool, consoles: list[str]) -> None:
    guest = _with_login(Login(), consoles=tuple(consoles))
    made = ("/etc/ssh/ssh_host_rsa_key",) if keys else ()

    def edit(text: str) -> str:
        files = {"/etc/inittab": BaseFile(text)}
        facts = BaseFacts(InitSystem.SYSVINIT, files=files, ssh_host_keys=made, ssh_keygen="/usr/bin/ssh-keygen")
        return inittab.inittab(guest, facts)

    text = edit(joined(lines))
    assert edit(text) == text
    rows = [line.split(":", 3) for line in text.splitlines() if line.count(":") >= 3 and line[0] != "#"]
    assert [row[3].split()[-2] for row in rows if row[2] == "respawn" and "getty" in row[3]] == consoles
    assert all("shutdown" in row[3] for row in rows if row[2] == "ctrlaltdel")
    assert sum(row[3].endswith("is ready' >/dev/console") for row in rows) == 1
    assert [line for line in lines if line in ("# a comment", "x", "us:2:respawn:/bin/x")] == [
        line for line in text.splitlines() if line in ("# a comment", "x", "us:2:respawn:/bin/x")
    ]


def test_the_marker_comes_after_all_that_is_started_and_keys_before() -> None:
    facts = replace(SYSVINIT_FACTS, ssh_host_keys=("/etc/ssh/ssh_host_rsa_key",), ssh_keygen="/usr/bin/ssh-keygen")
    ids = [line.partition(":")[0] for line in inittab.inittab(PLAIN, facts).splitlines() if line[0] != "#"]
    assert ids.index("ukey") < ids.index("l2") < ids.index("urdy") < ids.index("u0")


@given(st.lists(st.text(st.characters(exclude_characters="\n"), max_size=8)))
def test_lines_come_apart_and_together(lines: list[str]) -> None:
    assert edited_lines(joined(lines)) == (lines if lines != [] else [])
    assert joined(edited_lines(joined(lines))) == joined(lines)


def test_an_edited_file_is_only_there_when_it_differs() -> None:
    facts = BaseFacts(InitSystem.OTHER, files={"/etc/x": BaseFile("a\n", 0o600)})
    assert edited(facts, "/etc/x", "a\n") == []
    assert edited(facts, "/etc/x", "b\n")[0].inode.mode == 0o600


# machine id, ssh, scripts


def test_systemd_makes_its_id_itself() -> None:
    assert _texts(PLAIN, SYSTEMD_FACTS)["/etc/machine-id"] == ""


def test_an_id_for_dbus_follows_from_the_name_and_is_none_of_the_base() -> None:
    facts = replace(SYSVINIT_FACTS, dbus=True, files={"/var/lib/dbus/machine-id": BaseFile("0" * 32 + "\n")})
    ids = {_text(machine_id.entries(replace(PLAIN, name=name), facts)[0]) for name in ("a", "b", "a")}
    assert len(ids) == 2
    assert all(len(made) == 33 and int(made, 16) for made in ids)
    assert machine_id.entries(PLAIN, SYSVINIT_FACTS) == []


def test_keys_lie_where_root_lives() -> None:
    passwd = BaseFile("root:x:0:0:root:/var/root:/bin/sh\n")
    facts = replace(SYSVINIT_FACTS, files={**SYSVINIT_FACTS.files, "/etc/passwd": passwd})
    made = {entry.path: entry.inode.mode for entry in ssh.entries(_with_login(Login(ssh_keys=("k",))), facts)}
    assert made == {"/var/root/.ssh": 0o700, "/var/root/.ssh/authorized_keys": 0o600}


@pytest.mark.parametrize("home", ["", "nowhere", "/"])
def test_a_root_without_a_home_gets_the_usual_one(home: str) -> None:
    facts = replace(SYSVINIT_FACTS, files={"/etc/passwd": BaseFile(f"root:x:0:0:root:{home}:/bin/sh\n")})
    assert accounts.root_home(facts) == ("" if home == "/" else "/root")


@needs("ssh-keygen")
def test_emptied_host_keys_are_made_anew(tmp_path: Path) -> None:
    facts = replace(SYSVINIT_FACTS, ssh_keygen="/usr/bin/ssh-keygen", ssh_host_keys=("/etc/ssh/ssh_host_rsa_key",))
    (tmp_path / "etc/ssh").mkdir(parents=True)
    for entry in ssh.entries(PLAIN, facts):
        (tmp_path / entry.path.lstrip("/")).write_text(_text(entry))
    subprocess.run(["ssh-keygen", "-q", "-A", "-f", str(tmp_path)], check=True)
    assert "PRIVATE KEY" in (tmp_path / "etc/ssh/ssh_host_rsa_key").read_text()


@needs("busybox")
@pytest.mark.parametrize("case", CASES)
def test_scripts_are_valid_shell(case: str) -> None:
    scripts = [text for text in _texts(*CASES[case]).values() if text.startswith("#!")]
    for script in scripts:
        subprocess.run(["busybox", "sh", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("case", CASES)
def test_programs_may_be_run_and_nothing_else(case: str) -> None:
    for entry in guest_entries(*CASES[case], mtime_ns=0):
        is_program = _text(entry).startswith("#!")
        assert (entry.inode.mode & 0o111 != 0) == (is_program or entry.inode.type.name != "FILE")


@needs("systemd-analyze")
@pytest.mark.parametrize("case", [case for case, (_, facts) in CASES.items() if facts.init is InitSystem.SYSTEMD])
def test_units_are_understood(case: str, tmp_path: Path) -> None:
    units = {path: text for path, text in _texts(*CASES[case]).items() if path.endswith(".service") and text}
    assert units
    for path, text in units.items():
        place = tmp_path / Path(path).name
        place.write_text(text)
        argv = ["systemd-analyze", "verify", "--man=no", str(place)]
        said = subprocess.run(argv, capture_output=True, text=True, check=False).stderr
        assert not [line for line in said.splitlines() if str(place) in line]
