"""Bootstrapped bases: the command that makes them, and the base that is read from the cache; no network is needed."""

from pathlib import Path

import pytest

from tests.kit.bases import STATUS, Maker, debian_archive
from umldisk.build.bases import bootstrap_cache as cache
from umldisk.build.bases.bootstrap import BootstrapBase, bootstrap_argv, host_architecture
from umldisk.build.tree import Entry, plant
from umldisk.config.settings import Bootstrap, Init
from umldisk.errors import DataError, NoInputError, UsageError

# The command.


def test_the_default_command_one_option_a_word() -> None:
    assert bootstrap_argv("debian", "bookworm", Bootstrap(), architecture="amd64") == (
        "mmdebstrap",
        "--variant=essential",
        "--format=tar",
        "--architectures=amd64",
        "--keyring=/usr/share/keyrings/debian-archive-keyring.gpg",
        "--include=e2fsprogs,iproute2,kmod,login,netbase,passwd,ifupdown,sysvinit-core",
        "--skip=cleanup/apt",
        '--customize-hook=rm --force "$1/etc/hostname" "$1/etc/resolv.conf"',
        '--customize-hook=find "$1/var/cache/apt" "$1/var/lib/apt/lists" ! -type d -delete',
        '--customize-hook=find "$1/var/cache/apt" "$1/var/lib/apt/lists" -type d -exec chown 0:0 {} +',
        "bookworm",
        "-",
        "deb http://deb.debian.org/debian bookworm main",
        "deb http://deb.debian.org/debian bookworm-updates main",
        "deb http://security.debian.org/debian-security bookworm-security main",
    )


UBUNTU = "http://archive.ubuntu.com/ubuntu"
PORTS = "http://ports.ubuntu.com/ubuntu-ports"
MANY = Bootstrap(components=("main", "non-free-firmware"))


@pytest.mark.parametrize(
    ("distribution", "suite", "settings", "architecture", "expected"),
    [
        ("debian", "sid", Bootstrap(), "amd64", ["deb http://deb.debian.org/debian sid main"]),
        (
            "debian",
            "lenny",
            Bootstrap(mirror="file:/srv/debian"),
            "i386",
            ["deb file:/srv/debian lenny main"],
        ),
        (
            "debian",
            "trixie",
            MANY,
            "arm64",
            [
                "deb http://deb.debian.org/debian trixie main non-free-firmware",
                "deb http://deb.debian.org/debian trixie-updates main non-free-firmware",
                "deb http://security.debian.org/debian-security trixie-security main non-free-firmware",
            ],
        ),
        (
            "ubuntu",
            "noble",
            Bootstrap(init=Init.SYSTEMD),
            "amd64",
            [
                f"deb {UBUNTU} noble main",
                f"deb {UBUNTU} noble-updates main",
                "deb http://security.ubuntu.com/ubuntu noble-security main",
            ],
        ),
        (
            "ubuntu",
            "noble",
            Bootstrap(init=Init.SYSTEMD),
            "arm64",
            [f"deb {PORTS} noble main", f"deb {PORTS} noble-updates main", f"deb {PORTS} noble-security main"],
        ),
    ],
)
def test_where_packages_come_from(
    distribution: str, suite: str, settings: Bootstrap, architecture: str, expected: list[str]
) -> None:
    argv = bootstrap_argv(distribution, suite, settings, architecture=architecture)
    assert argv[argv.index(suite) :] == (suite, "-", *expected)
    assert f"--architectures={architecture}" in argv
    assert f"--keyring=/usr/share/keyrings/{distribution}-archive-keyring.gpg" in argv


def test_packages_of_the_user_come_last_and_once() -> None:
    settings = Bootstrap(init=Init.SYSTEMD, packages=("openssh-server", "kmod", "vim=2:9.0.1378-2", "g++"))
    argv = bootstrap_argv("debian", "bookworm", settings, architecture="amd64")
    assert argv[5] == (
        "--include=e2fsprogs,iproute2,kmod,login,netbase,passwd,dbus,systemd-sysv,udev,"
        "openssh-server,vim=2:9.0.1378-2,g++"
    )


@pytest.mark.parametrize(
    ("suite", "settings"),
    [
        *(
            (suite, Bootstrap())
            for suite in ("", "-", "--help", "../x", "a/b", "Sid", "sid main", "sid\n", "s\u012bd", ".")
        ),
        ("sid", Bootstrap(variant="custom")),
        ("sid", Bootstrap(variant="")),
        ("sid", Bootstrap(components=())),
        ("sid", Bootstrap(components=("main contrib",))),
        ("sid", Bootstrap(components=("main\ndeb http://other sid",))),
        *(
            ("sid", Bootstrap(packages=(name,)))
            for name in ("", "a,b", "-o=x", "./x.deb", "/x.deb", "?installed", "vim vi")
        ),
        *(
            ("sid", Bootstrap(mirror=mirror))
            for mirror in ("deb.debian.org", "http://x y", "http://x\n", "[trusted=yes] http://x", "/srv/debian")
        ),
    ],
)
def test_what_could_not_be_a_name_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite: str, settings: Bootstrap
) -> None:
    monkeypatch.setattr("umldisk.system.process.subprocess.Popen", None)
    with pytest.raises(UsageError):
        BootstrapBase("debian", suite, settings, cache=tmp_path / "cache")
    with pytest.raises(UsageError):
        bootstrap_argv("debian", suite, settings, architecture="amd64")
    assert not list(tmp_path.iterdir())


def test_ubuntu_has_no_sysvinit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Ubuntu has no sysvinit") as caught:
        BootstrapBase("ubuntu", "noble", Bootstrap(init=Init.SYSVINIT), cache=tmp_path)
    assert 'init = "systemd"' in (caught.value.hint or "")


def test_ubuntu_gets_systemd_unless_told_otherwise() -> None:
    argv = bootstrap_argv("ubuntu", "noble", Bootstrap(), architecture="amd64")
    assert any("systemd-sysv" in word for word in argv)


# The base.


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cache.CachedArchive:
    """Put an archive where debian:bookworm with the defaults is looked for."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    argv = bootstrap_argv("debian", "bookworm", Bootstrap(), architecture=host_architecture())
    return cache.obtain(str(tmp_path), cache.Order("debian:bookworm", argv), Maker())


def test_the_base_gives_what_the_cached_archive_holds(made: cache.CachedArchive, tmp_path: Path) -> None:
    with BootstrapBase("debian", "bookworm", Bootstrap(), cache=tmp_path) as base:
        texts = {
            entry.path: b"".join(data for _, data in entry.inode.contents.pieces())
            for entry in base.entries()
            if isinstance(entry, Entry)
        }
        origin = base.origin
    assert texts == {"/var/lib/dpkg/status": STATUS.encode(), "/etc/word": b"x"}
    assert (origin.kind, origin.source) == ("bootstrap", "debian:bookworm")
    assert (origin.sha256, origin.packages) == (made.sha256, made.packages)


def test_an_archive_that_was_changed_is_noticed(made: cache.CachedArchive, tmp_path: Path) -> None:
    Path(made.path).write_bytes(debian_archive(word="y"))
    with (
        BootstrapBase("debian", "bookworm", Bootstrap(), cache=tmp_path) as base,
        pytest.raises(DataError, match="not what was put there") as caught,
    ):
        plant({}, base.entries())
    assert "--refresh" in (caught.value.hint or "")


def test_without_mmdebstrap_the_package_is_named(
    made: cache.CachedArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is another one, so that nothing is in the cache."""
    only = tmp_path / "bin"
    only.mkdir()
    (only / "dpkg").symlink_to("/usr/bin/dpkg")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    monkeypatch.setenv("PATH", str(only))
    monkeypatch.setattr("umldisk.build.bases.bootstrap._require_keys", print)
    monkeypatch.setattr("umldisk.build.bases.bootstrap_run.os.geteuid", lambda: 0)
    with pytest.raises(NoInputError, match="mmdebstrap is not installed") as caught:
        BootstrapBase("debian", "bookworm", Bootstrap(), cache=tmp_path).obtain()
    assert caught.value.hint == "apt-get install mmdebstrap"
