"""Everything that is wrong with a umldisk.toml is said at once, each problem with its line."""

import re

import pytest

from tests.kit.config import KEY, guest, one_guest, problems
from umldisk.config.load import parse_configuration
from umldisk.config.problems import ConfigError, toml_text
from umldisk.errors import DataError
from umldisk.image.drives import GIB

FOR_INIT = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr/sbin", "/usr/lib64")

WRONG = [
    ("memory = 64", "memory", "64"),
    ('memory = "16M"', "memory", "more than 16M"),
    ('memory = "512G"', "memory", "less than 512G"),
    ('memory = "64MB"', "memory", 'a size such as "64M"'),
    ('base = ""', "base", '"busybox"'),
    ('base = "alpine:3"', "base", "./alpine:3"),
    ('base = "debian:"', "base", '"debian:SUITE"'),
    ('base = "debian:Book worm"', "base", '"debian:SUITE"'),
    ('base = "a\\u0000b"', "base", "found"),
    ("overlay = false", "overlay", "a path"),
    ('store = "ftp://nights"', "store", "a directory, or s3://BUCKET/PREFIX"),
    ('store = "s3://"', "store", "a directory, or s3://BUCKET/PREFIX"),
    ('store = ""', "store", "a directory, or s3://BUCKET/PREFIX"),
    ('user = "Root"', "user", "the name of a user"),
    ('user = "a:b"', "user", "the name of a user"),
    ('consoles = "tty0"', "consoles", "an array"),
    ('consoles = ["tty16"]', "consoles[0]", "tty15"),
    ('consoles = ["tty0", "tty0"]', "consoles[1]", "a second time"),
    ('device_names = "ubd"', "device_names", "did you mean"),
    ('device_names = "/dev/ubda"', "device_names", '"ubda", "label" or "ubd/0"'),
    ('modules = "loop"', "modules", "true, false or an array"),
    ('modules = ["a b"]', "modules[0]", "kernel module"),
    ('apt_sources = ["debian"]', "apt_sources[0]", "sources.list"),
    ('apt_sources = ["deb http://h/ a b\\ndeb http://h/ c d"]', "apt_sources[0]", "sources.list"),
    ('root_password = ""', "root_password", "openssl passwd -6"),
    ('root_password = "!"', "root_password", "openssl passwd -6"),
    ('root_password = "$6$a$b:0"', "root_password", "openssl passwd -6"),
    ('ssh_keys = ["ssh-ed25519 AAAA"]', "ssh_keys[0]", "ssh-ed25519 AAAA..."),
    (f'ssh_keys = ["{KEY.replace("ssh-ed25519", "ssh-rsa")}"]', "ssh_keys[0]", "ssh-ed25519 AAAA..."),
    (f'ssh_keys = ["{KEY}\\n{KEY}"]', "ssh_keys[0]", "ssh-ed25519 AAAA..."),
    ('console_login = "yes"', "console_login", "true or false"),
    ("console_login = true\nconsoles = []", "console_login", "true without a console"),
    ('hosts = ["a"]', "hosts", "a table"),
    ('hosts."fe80::1" = ["a"]', 'hosts."fe80::1"', "an IPv4 address"),
    ('hosts."10.0.0.1" = "a"', 'hosts."10.0.0.1"', "an array"),
    ('hosts."10.0.0.1" = ["a b"]', 'hosts."10.0.0.1"[0]', "the name of a host"),
    ('bootstrap.variant = "custom"', "bootstrap.variant", '"standard"'),
    ('bootstrap.init = "systemv"', "bootstrap.init", 'did you mean "systemd"?'),
    ('bootstrap.packages = ["--help"]', "bootstrap.packages[0]", "the name of a package"),
    ('bootstrap.mirror = "ftp.debian.org"', "bootstrap.mirror", "URL"),
    ('bootstrap.components = ["a b"]', "bootstrap.components[0]", "a component"),
    ('bootstrap = "minbase"', "bootstrap", "a table"),
    ('network.domain = "a..b"', "network.domain", "a domain name"),
    ('network.search = [""]', "network.search[0]", "a domain name"),
    ('network.nameservers = ["10.0.0.1", "::1"]', "network.nameservers[1]", "an IPv4 address"),
    ('network.nameservers = ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]', "network.nameservers", "at most 3"),
    ('drives.var.size = "2Q"', "drives.var.size", "512M, 2G"),
    ('drives.var.size = "2g"', "drives.var.size", "512M, 2G"),
    ("drives.var.size = 4096", "drives.var.size", "512M, 2G"),
    ('drives.var.size = "1000000"', "drives.var.size", "a multiple of 4096"),
    ('drives.var.size = "0"', "drives.var.size", "a multiple of 4096"),
    ('drives.var.size = "16T"', "drives.var.size", "at most 15T"),
    ('drives.var.size = "4M"', "drives.var.size", "at least 8M"),
    ('drives.swap.size = "36K"', "drives.swap.size", "at least 40K"),
    ('drives.var.fs = "ext5"', "drives.var.fs", "did you mean"),
    ('drives.var.mount = "var"', "drives.var.mount", "an absolute path"),
    ('drives.var.mount = "/a/../b"', "drives.var.mount", "an absolute path"),
    ('drives.var.mount = "/a/"', "drives.var.mount", "an absolute path"),
    ('drives.var.mount = "/a b"', "drives.var.mount", "an absolute path"),
    ('drives.var.mount = "/home"', "drives.var.mount", "where drive home is mounted"),
    ('drives.var.mount = "/etc/x"', "drives.var.mount", "outside"),
    *((f'drives.var.mount = "{path}"', "drives.var.mount", "init starts from there") for path in FOR_INIT),
    ('drives.var.mount = "/"', "drives.var.mount", "where drive root is mounted"),
    ('drives.root.mount = "/r"', "drives.root.mount", '"/"'),
    ("drives.var.mount_mode = 755", "drives.var.mount_mode", "octal digits"),
    ('drives.var.mount_mode = "788"', "drives.var.mount_mode", "octal digits"),
    ('drives.var.copy_on_write = "no"', "drives.var.copy_on_write", "true or false"),
    ('drives.swap.mount = "/swap"', "drives.swap.mount", "no mount"),
    ('drives.Var.size = "1G"', "drives.Var", "lower-case"),
    ('drives.seventeen-letters.mount = "/a"', "drives.seventeen-letters", "at most 16"),
    ("drives.data = {}", "drives.data", "no mount"),
    ("drives.swap.fs = 'ext4'", "drives.swap", "no mount"),
    ("drives = 5", "drives", "a table"),
    ("drives.var = 5", "drives.var", "a table"),
    ('layout = ["var", "root"]', "layout", '"root"'),
    ("layout = []", "layout", "no drive"),
    ('layout = ["root", "root"]', "layout[1]", "a second time"),
    ('layout = ["root", "data"]', "layout", '"data", of which nothing is said'),
]


@pytest.mark.parametrize(
    "path", ["/usr/local", "/usr/share", "/usr/src", "/usr/libexec", "/usrlib", "/binary", "/a/lib"]
)
def test_where_init_does_not_start_a_drive_may_be(path: str) -> None:
    drives = {drive.name: drive for drive in guest(one_guest(f'drives.var.mount = "{path}"')).drives}
    assert drives["var"].mount_point == path


@pytest.mark.parametrize(("setting", "key", "said"), WRONG, ids=[case[0][:50] for case in WRONG])
def test_one_mistake_is_one_problem_at_its_line(setting: str, key: str, said: str) -> None:
    (problem,) = problems("# first\n\n" + one_guest(setting))
    assert problem.key == f"guest.x.{key}"
    assert said in problem.text()
    assert problem.line == 4


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("memroy = 1", "memroy", None),
        ("[default]\n", "default", "did you mean defaults?"),
        ("[guests.x]\n", "guests", "did you mean guest?"),
        ("[defaults]\nmemroy = 1", "defaults.memroy", "did you mean memory?"),
        ("[guest.x.drives.var]\nsise = 1", "guest.x.drives.var.sise", "did you mean size?"),
        ("[guest.x.bootstrap.x]\n", "guest.x.bootstrap.x", None),
        ('[guest.x]\n"a b\\n" = 1', 'guest.x."a b\\u000a"', None),
    ],
)
def test_unknown_keys_are_problems_with_the_nearest_known(text: str, key: str, hint: str | None) -> None:
    (problem,) = problems(text)
    assert (problem.key, problem.hint) == (key, hint)
    assert problem.found == "an unknown key"
    assert problem.expected.startswith("one of ")


@pytest.mark.parametrize("name", ["-a", "a_b", "a" * 64, "", "a/b", "é"])
def test_a_guests_table_needs_a_name_for_a_guest(name: str) -> None:
    (problem,) = problems(f"[guest.{toml_text(name)}]\nmemory = 3\n")
    assert problem.line == 1
    assert "letters, digits and hyphens" in problem.expected


@pytest.mark.parametrize(
    ("text", "key"), [("guest = 1", "guest"), ("defaults = []", "defaults"), ("guest.x = 1", "guest.x")]
)
def test_tables_must_be_tables(text: str, key: str) -> None:
    (problem,) = problems(text)
    assert (problem.key, problem.expected) == (key, "a table")


def test_secrets_are_never_repeated() -> None:
    text = one_guest(
        'root_password = "hunter2hunter2"',
        'ssh_keys = ["-----BEGIN OPENSSH PRIVATE KEY-----\\nhunter2", "hunter2"]',
    )
    found = problems(text)
    assert [problem.key for problem in found] == [
        f"guest.x.{key}" for key in ("root_password", "ssh_keys[0]", "ssh_keys[1]")
    ]
    assert not any("hunter2" in problem.text() for problem in found)
    assert "root_password = 12" not in problems(one_guest("root_password = 12"))[0].text()


def test_names_that_differ_in_capitals_only_are_one_host_name() -> None:
    (problem,) = problems("[guest.x]\n[guest.X]\n")
    assert (problem.line, problem.key) == (2, "guest.X")


def test_there_are_no_more_drives_than_ubd_devices() -> None:
    def with_drives(count: int) -> str:
        return one_guest(*(f"drives.d{n}.mount = '/d{n}'" for n in range(count)))

    assert len(guest(with_drives(11)).drives) == 16
    (problem,) = problems(with_drives(12))
    assert problem.key == "guest.x.drives.d11"


def test_the_defaults_alone_are_checked_where_no_guest_has_a_table() -> None:
    (problem,) = problems("[defaults]\ndrives.d.size = '2G'\n")
    assert (problem.line, problem.key) == (2, "defaults.drives.d")
    text = "[defaults]\ndrives.d.size = '2G'\n" + one_guest("drives.d.mount = '/d'")
    assert guest(text).drives[5].size_bytes == 2 * GIB
    with pytest.raises(ConfigError, match="no mount"):
        guest(text, "other")


def test_every_problem_is_reported_at_once_in_the_order_of_the_file() -> None:
    text = "".join(
        f"[guest.g{number}]\n{setting}\n" for number, (setting, _key, _said) in enumerate(WRONG) if "\n" not in setting
    )
    cases = [case for case in WRONG if "\n" not in case[0]]
    found = problems(text)
    assert len(found) == len(cases)
    assert [problem.line for problem in found] == sorted(problem.line or 0 for problem in found)
    for problem in found:
        assert problem.line is not None
        assert any(said in problem.text() and problem.key.endswith(key) for _setting, key, said in cases)


def test_the_error_is_a_data_error_with_the_first_problem_and_their_number() -> None:
    with pytest.raises(DataError) as refused:
        parse_configuration("a = 1\n\nb = 2\nc = 3\n", path="/s/umldisk.toml")
    error = refused.value
    assert isinstance(error, ConfigError)
    assert error.exit_code == 65
    assert error.line().startswith("line 1: a: found an unknown key")
    assert error.line().endswith("(and 2 more) (/s/umldisk.toml)")
    assert [re.match(r"/s/umldisk.toml:(\d): ", line)[1] for line in error.lines] == ["1", "3", "4"]  # type: ignore[index]
