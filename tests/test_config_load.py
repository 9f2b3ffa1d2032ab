"""umldisk.toml: what it may say, what of it counts, and the files that it names."""

import os
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from tests.kit.config import HASH, KEY, guest, one_guest
from umldisk.config.guest import Guest
from umldisk.config.load import parse_configuration
from umldisk.config.problems import ConfigError
from umldisk.config.schema import KEYS, Unset
from umldisk.config.settings import Bootstrap, DeviceNames, Files, Init, Interface, Login, Network, Route
from umldisk.config.site import Site
from umldisk.image.drives import DRIVES, GIB, MIB, Content, Drive

# -- what it may say --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "\n# a remark\n", "[defaults]\n", "[guest.x]\n", "[guest]\n", "[guest.y]\n"])
def test_what_is_not_said_is_as_without_a_file(text: str) -> None:
    assert guest(text) == Guest("x", "/s/guests/x")


def test_every_default_of_the_schema_is_one_it_takes_itself() -> None:
    for key in KEYS:
        if not isinstance(key.default, Unset):
            complaints: list[object] = []
            key.kind.read(key.default, (), complaints)  # type: ignore[arg-type]
            assert complaints == []


def test_every_setting_reaches_the_guest() -> None:
    text = f"""
[guest.x]
base = "debian:bookworm"
memory = "256M"
user = "dmz"
overlay = "over/./lay"
consoles = ["tty0", "ttyS1"]
device_names = "ubd/0"
modules = ["loop", "dm_mod"]
apt_sources = ["deb http://deb.debian.org/debian bookworm main"]
root_password = "{HASH}"
ssh_keys = ["{KEY} me@here", 'from="10.0.0.1",no-pty {KEY}']
console_login = false
layout = ["root", "tmp", "more", "swap"]
hosts."10.0.0.9" = ["nine", "nine.example.org"]

[guest.x.bootstrap]
variant = "minbase"
init = "systemd"
packages = ["openssh-server", "libc6:amd64", "dash=0.5.12-2"]
mirror = "http://localhost:3142/debian"
components = ["main", "contrib"]

[guest.x.network]
domain = "example.org"
search = ["example.org", "example.net"]
nameservers = ["10.0.0.53"]
[[guest.x.network.interfaces]]
name = "eth0"
address = "10.1.0.6/30"
gateway = "10.1.0.5"
routes = [{{ to = "10.1.0.16/30", via = "10.1.0.5" }}]

[guest.x.drives]
root = {{ size = "2G", fs = "ext3", copy_on_write = false }}
more = {{ size = "12M", fs = "ext2", mount = "/srv/more", mount_mode = "0750" }}
swap = {{ size = "64M" }}
"""
    eth0 = Interface(
        "eth0",
        IPv4Interface("10.1.0.6/30"),
        IPv4Address("10.1.0.5"),
        (Route(IPv4Network("10.1.0.16/30"), IPv4Address("10.1.0.5")),),
    )
    network = Network(
        (eth0,),
        "example.org",
        ("example.org", "example.net"),
        (IPv4Address("10.0.0.53"),),
        ((IPv4Address("10.0.0.9"), ("nine", "nine.example.org")),),
    )
    files = Files(
        DeviceNames.OLD,
        ("tty0", "ttyS1"),
        network,
        Login(HASH, (f"{KEY} me@here", f'from="10.0.0.1",no-pty {KEY}'), False),
        ("deb http://deb.debian.org/debian bookworm main",),
        ("loop", "dm_mod"),
        "/s/over/lay",
    )
    packages = ("openssh-server", "libc6:amd64", "dash=0.5.12-2")
    assert guest(text) == Guest(
        "x",
        "/s/guests/x",
        drives=(
            Drive("root", 0, "/", 2 * GIB, Content.EXT3, copy_on_write=False),
            Drive("tmp", 1, "/tmp", GIB, Content.EXT4, copy_on_write=False, mount_mode=0o1777),
            Drive("more", 2, "/srv/more", 12 * MIB, Content.EXT2, mount_mode=0o750),
            Drive("swap", 3, None, 64 * MIB, Content.SWAP, copy_on_write=False),
        ),
        base="debian:bookworm",
        bootstrap=Bootstrap("minbase", Init.SYSTEMD, packages, "http://localhost:3142/debian", ("main", "contrib")),
        files=files,
        memory="256M",
        user="dmz",
    )


@pytest.mark.parametrize(
    ("base", "found"),
    [
        ("busybox", "busybox"),
        ("-", "-"),
        ("debian:sid", "debian:sid"),
        ("ubuntu:noble", "ubuntu:noble"),
        ("root.tar.gz", "/s/root.tar.gz"),
        ("../b/", "/b"),
        ("/abs/x", "/abs/x"),
        ("./a:b", "/s/a:b"),
    ],
)
def test_a_base_is_a_word_or_a_path_from_the_site(base: str, found: str) -> None:
    assert guest(one_guest(f'base = "{base}"')).base == found


@pytest.mark.parametrize(("said", "found"), [("true", None), ("false", ()), ("[]", ()), ('["a"]', ("a",))])
def test_modules_are_all_or_none_or_some(said: str, found: object) -> None:
    assert guest(one_guest(f"modules = {said}")).files.modules == found


# -- what counts ------------------------------------------------------------------------------------------------------


def test_a_guest_counts_before_the_defaults_key_by_key() -> None:
    text = """
[defaults]
memory = "128M"
drives.var = { size = "3G", fs = "ext2" }
consoles = ["tty0", "tty1"]
hosts = { "10.0.0.1" = ["one"], "10.0.0.2" = ["two"] }
[guest.x]
drives.var.size = "2G"
consoles = ["ttyS0"]
hosts."10.0.0.2" = ["zwei"]
[guest.y]
memory = "32M"
"""
    x, y, z = (guest(text, name) for name in "xyz")
    assert (x.memory, y.memory, z.memory) == ("128M", "32M", "128M")
    assert [g.drives[1].size_bytes // GIB for g in (x, y, z)] == [2, 3, 3]
    assert {g.drives[1].content for g in (x, y, z)} == {Content.EXT2}
    assert (x.files.consoles, y.files.consoles) == (("ttyS0",), ("tty0", "tty1"))
    assert x.files.network.hosts == ((IPv4Address("10.0.0.1"), ("one",)), (IPv4Address("10.0.0.2"), ("zwei",)))


def names(text: str) -> list[str]:
    drives = guest(text).drives
    assert [drive.ubd for drive in drives] == list(range(len(drives)))
    return [drive.name for drive in drives]


FIVE = [drive.name for drive in DRIVES]


def test_drives_not_in_the_layout_come_after_it_in_the_order_of_the_file() -> None:
    new = "drives.zz.mount = '/z'", "drives.aa = { mount = '/a' }"
    assert names(one_guest(*new)) == [*FIVE, "zz", "aa"]
    assert names(one_guest("layout = ['root', 'aa']", *new)) == ["root", "aa", "zz"]
    assert names("[defaults]\ndrives.d.mount = '/d'\n" + one_guest(*new)) == [*FIVE, "d", "zz", "aa"]


def test_a_layout_leaves_out_what_only_weaker_tables_describe() -> None:
    defaults = "[defaults]\ndrives.d.mount = '/d'\ndrives.var.size = '2G'\n"
    assert names(defaults + one_guest("layout = ['root', 'swap']")) == ["root", "swap"]
    assert names(defaults + one_guest("layout = ['root', 'swap']", "drives.d.size = '9M'")) == ["root", "swap", "d"]


def test_a_layout_among_the_defaults_leaves_guests_their_own_drives() -> None:
    text = "[defaults]\nlayout = ['root', 'swap']\n" + one_guest("drives.d.mount = '/d'")
    assert names(text) == ["root", "swap", "d"]
    assert [drive.name for drive in guest(text, "other").drives] == ["root", "swap"]


def test_a_second_swap_drive_needs_no_more_than_its_kind() -> None:
    (swap2,) = guest(one_guest("drives.swap2 = { fs = 'swap', size = '40K' }")).drives[5:]
    assert swap2 == Drive("swap2", 5, None, 40960, Content.SWAP, copy_on_write=False)


def test_a_drive_of_the_five_may_become_another_kind() -> None:
    drives = guest(one_guest("drives.tmp.fs = 'swap'", "drives.swap = { fs = 'ext4', mount = '/scratch' }")).drives
    assert drives[3] == Drive("tmp", 3, None, GIB, Content.SWAP, copy_on_write=False)
    assert drives[4] == Drive("swap", 4, "/scratch", GIB)


# -- files that it names ----------------------------------------------------------------------------------------------


def keyed(tmp_path: Path, contents: str | None) -> Site:
    (tmp_path / "umldisk.toml").write_text(one_guest('ssh_keys = ["keys/a.pub"]') + "[guest.y]\n")
    (tmp_path / "keys").mkdir()
    if contents is not None:
        (tmp_path / "keys/a.pub").write_text(contents)
    return Site(str(tmp_path))


def test_keys_are_read_from_files(tmp_path: Path) -> None:
    site = keyed(tmp_path, f"# mine\n\n{KEY} me\n  {KEY} me2  \n")
    assert site.guest("x").files.login.ssh_keys == (f"{KEY} me", f"{KEY} me2")


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (None, "cannot open: No such file or directory"),
        ("", "no key"),
        ("nonsense\n", "something else"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n", "a private key"),
        ("\x00\xff" * 100_000, "something else"),
    ],
)
def test_a_bad_key_file_stops_its_guest_and_no_other(contents: str | None, said: str, tmp_path: Path) -> None:
    site = keyed(tmp_path, contents)
    assert site.guest("y").files.login.ssh_keys == ()
    with pytest.raises(ConfigError) as refused:
        site.guest("x")
    (problem,) = refused.value.problems
    assert (problem.line, problem.key) == (2, "guest.x.ssh_keys[0]")
    assert said in problem.found
    assert "hunter2" not in problem.text()


def test_a_path_that_ends_in_pub_is_no_key_and_a_comment_may() -> None:
    assert guest(one_guest(f'ssh_keys = ["{KEY} me@a.pub"]')).files.login.ssh_keys == (f"{KEY} me@a.pub",)


# -- the sample site --------------------------------------------------------------------------------------------------

ZEIT = Path(__file__).parents[1] / "fixtures/sites/zeit"


def test_the_sample_site_describes_the_three_servers() -> None:
    site = Site(str(ZEIT))
    site.configuration.require_files()
    assert site.guest_names() == ("blackdance", "mirage", "trancefer")
    last = {"blackdance": 6, "mirage": 14, "trancefer": 18}
    for name, number in last.items():
        network = site.guest(name).files.network
        assert [str(link.address) for link in network.interfaces] == [f"10.1.0.{number}/30", f"10.1.1.{number}/30"]
        assert [link.gateway for link in network.interfaces] == [None, IPv4Address(f"10.1.1.{number - 1}")]
        others = {f"10.1.{net}.{other - 2}/30" for net in (0, 1) for other in last.values() if other != number}
        assert {str(route.network) for link in network.interfaces for route in link.routes} == others
        assert network.nameservers == (IPv4Address("194.168.4.100"), IPv4Address("194.168.8.100"))
    overlay = site.guest("mirage").files.overlay
    assert overlay is not None
    assert os.listdir(overlay) == ["etc"]


@pytest.mark.parametrize(
    ("store", "kept"),
    [("nights", "/zeit/nights"), ("/srv/store", "/srv/store"), ("s3://nights/zeit", "s3://nights/zeit")],
)
def test_a_store_is_a_directory_seen_from_the_site_or_a_bucket(store: str, kept: str) -> None:
    found = parse_configuration(f'[guest.x]\nstore = "{store}"\n', path="/zeit/umldisk.toml")
    assert found.guest("x", "/zeit/guests/x").store == kept
    assert found.guest("y", "/zeit/guests/y").store is None
