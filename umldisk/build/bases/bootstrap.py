"""A base that mmdebstrap makes of the packages of Debian or Ubuntu, once; afterwards it is a tar in the site's cache.

    debian:bookworm, settings ──▶ bootstrap_argv ──▶ cache/debian-bookworm-<digest of the argv>.tar ──▶ TarBase

mmdebstrap gives the same bytes to root and to an ordinary user (who works in a user namespace, with the ids of
/etc/subuid), whatever their umask, locale and time zone. With SOURCE_DATE_EPOCH it gives the same bytes on any day,
as long as the mirror has the same packages; the variable belongs to what names the archive.

What would tell of the host is taken out: /etc/hostname and /etc/resolv.conf, which mmdebstrap copies into every tree,
and the owner of apt's directories, which is the host's user _apt if that may enter TMPDIR and root if not (apt itself
puts it right in the guest). Nothing else is left out: without its documentation a guest would be a third smaller, but
`dpkg --verify` in it would name thousands of missing files.

Of mmdebstrap's modes only `root` and `unshare` are used. It would fall back to fakechroot by itself, which runs the
packages' scripts with a preloaded library and does not keep everything they do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from umldisk.build.bases.base import Origin
from umldisk.build.bases.bootstrap_cache import CachedArchive, Order, obtain
from umldisk.build.bases.bootstrap_run import bootstrap
from umldisk.build.bases.compression import open_archive
from umldisk.build.bases.tar import TarBase
from umldisk.build.tree import Entry, HardLink
from umldisk.config.settings import Bootstrap, Init
from umldisk.errors import DataError, NoInputError, UsageError
from umldisk.progress import SILENT, Progress
from umldisk.system.process import run

KIND = "bootstrap"
VARIANTS = ("essential", "apt", "required", "minbase", "buildd", "important", "debootstrap", "standard")
"""The variants of mmdebstrap(1) that give a whole system."""

_SUITE = re.compile(r"[a-z0-9][a-z0-9.-]*", re.ASCII)
_COMPONENT = re.compile(r"[a-z0-9][a-z0-9/-]*", re.ASCII)
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?([=/][A-Za-z0-9.+:~-]+)?", re.ASCII)
_MIRROR = re.compile(r"[a-z0-9+]+:/[!-~]+", re.ASCII)
_EXPECTED = {
    "suite": "small letters, digits, dots and hyphens",
    "mirror": "a URI without blanks, such as http://deb.debian.org/debian",
    "component": "words such as main",
    "package": "the name of a package, perhaps with =VERSION",
}

_EVERY_GUEST = ("e2fsprogs", "iproute2", "kmod", "login", "netbase", "passwd")
_INIT_PACKAGES = {
    Init.SYSVINIT: ("ifupdown", "sysvinit-core"),
    Init.SYSTEMD: ("dbus", "systemd-sysv", "udev"),
}
_HOOKS = (
    'rm --force "$1/etc/hostname" "$1/etc/resolv.conf"',
    'find "$1/var/cache/apt" "$1/var/lib/apt/lists" ! -type d -delete',
    'find "$1/var/cache/apt" "$1/var/lib/apt/lists" -type d -exec chown 0:0 {} +',
)


@dataclass(frozen=True, slots=True)
class _Distribution:
    """Where a distribution's packages are: `mirror` and `security` for amd64 and i386, `ports` for the rest.

    The first of `inits` is the one that a guest gets unless it asks for another.
    """

    title: str
    mirror: str
    security: str
    ports: str
    keyring: str
    keyring_package: str
    inits: tuple[Init, ...] = tuple(Init)
    rolling: tuple[str, ...] = ()

    def sources(self, suite: str, settings: Bootstrap, architecture: str) -> tuple[str, ...]:
        """Return the lines of sources.list: one for a mirror of the user's, else with updates where there are any."""
        components = " ".join(settings.components)
        if settings.mirror:
            return (f"deb {settings.mirror} {suite} {components}",)
        common = architecture in ("amd64", "i386") or not self.ports
        mirror, security = (self.mirror, self.security) if common else (self.ports, self.ports)
        lines = [f"deb {mirror} {suite} {components}"]
        if suite not in self.rolling:
            lines += [f"deb {mirror} {suite}-updates {components}", f"deb {security} {suite}-security {components}"]
        return tuple(lines)


_DISTRIBUTIONS = {
    "debian": _Distribution(
        title="Debian",
        mirror="http://deb.debian.org/debian",
        security="http://security.debian.org/debian-security",
        ports="",
        keyring="/usr/share/keyrings/debian-archive-keyring.gpg",
        keyring_package="debian-archive-keyring",
        rolling=("sid", "unstable", "experimental"),
    ),
    "ubuntu": _Distribution(
        title="Ubuntu",
        mirror="http://archive.ubuntu.com/ubuntu",
        security="http://security.ubuntu.com/ubuntu",
        ports="http://ports.ubuntu.com/ubuntu-ports",
        keyring="/usr/share/keyrings/ubuntu-archive-keyring.gpg",
        keyring_package="ubuntu-keyring",
        inits=(Init.SYSTEMD,),
    ),
}


def bootstrap_argv(distribution: str, suite: str, settings: Bootstrap, *, architecture: str) -> tuple[str, ...]:
    """Return the mmdebstrap command that writes the base to its stdout as a tar; its mode is not in it.

    Raises UsageError for what could not be the name of a suite, package, component, variant or mirror, and for an
    init that the distribution does not have.
    """
    require_settings(distribution, suite, settings)
    known = _DISTRIBUTIONS[distribution]
    packages = dict.fromkeys((*_EVERY_GUEST, *_INIT_PACKAGES[settings.init or known.inits[0]], *settings.packages))
    return (
        "mmdebstrap",
        f"--variant={settings.variant}",
        "--format=tar",
        f"--architectures={architecture}",
        f"--keyring={known.keyring}",
        f"--include={','.join(packages)}",
        "--skip=cleanup/apt",  # it runs apt once more, after the hooks
        *(f"--customize-hook={hook}" for hook in _HOOKS),
        suite,
        "-",
        *known.sources(suite, settings, architecture),
    )


def require_settings(distribution: str, suite: str, settings: Bootstrap) -> None:
    """Raise UsageError for settings that could not be right; see `bootstrap_argv`."""
    _require(_SUITE, "suite", [suite])
    _require(_MIRROR, "mirror", [settings.mirror] if settings.mirror else [])
    _require(_COMPONENT, "component", settings.components or [""])
    _require(_PACKAGE, "package", settings.packages)
    if settings.variant not in VARIANTS:
        raise UsageError(
            "not a variant of mmdebstrap", expected=f"one of {', '.join(VARIANTS)}", found=settings.variant
        )
    known = _DISTRIBUTIONS[distribution]
    if settings.init is not None and settings.init not in known.inits:
        raise UsageError(
            f"{known.title} has no {settings.init.value}",
            where=f"{distribution}:{suite}",
            hint=f'set init = "{known.inits[0].value}" in [guest.NAME.bootstrap] of umldisk.toml',
        )


def _require(pattern: re.Pattern[str], what: str, words: Iterable[str]) -> None:
    for word in words:
        if not pattern.fullmatch(word):
            raise UsageError(f"not a {what} to bootstrap from", expected=_EXPECTED[what], found=word or "nothing")


class BootstrapBase:
    """The base `distribution:suite` from the directory `cache`, where it is made when it is missing; a `Base`.

    `refresh` makes it anew. Entering takes some seconds and the network when it has to be made, and waits while
    another process makes the same one. Raises UsageError for settings that make no sense, NoInputError when a
    program, a key, the mirror, the suite or a package is missing, StorageError when mmdebstrap fails otherwise, and
    DataError after the last entry when the cached archive is not what it was.
    """

    def __init__(
        self,
        distribution: str,
        suite: str,
        settings: Bootstrap,
        *,
        cache: str | os.PathLike[str],
        refresh: bool = False,
        progress: Progress = SILENT,
    ) -> None:
        self._source = f"{distribution}:{suite}"
        self._distribution = distribution
        self._suite = suite
        self._settings = settings
        require_settings(distribution, suite, settings)
        self._cache = os.fspath(cache)
        self._refresh = refresh
        self._progress = progress
        self._found: CachedArchive | None = None
        self._tar: TarBase | None = None

    def __enter__(self) -> Self:
        self._found = self.obtain()
        self._tar = TarBase(open_archive(self._found.path)).__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tar is not None:
            self._tar.__exit__(kind, error, trace)

    def obtain(self) -> CachedArchive:
        """Return the archive in the cache, made now if need be; raises what entering raises."""
        argv = bootstrap_argv(self._distribution, self._suite, self._settings, architecture=host_architecture())
        order = Order(self._source, argv, os.environ.get("SOURCE_DATE_EPOCH") or None)

        def make(output: int, lock: int) -> str:
            _require_keys(self._distribution)
            with self._progress.task(f"bootstrapping {self._source}"):
                return bootstrap(order, output, lock)

        return obtain(self._cache, order, make, refresh=self._refresh, progress=self._progress)

    def entries(self) -> Iterator[Entry | HardLink]:
        """Yield everything; raises DataError as well for what cannot be kept."""
        tar, archive = self._entered()
        yield from tar.entries()
        if tar.origin.sha256 != archive.sha256:
            raise DataError(
                "the cached archive is not what was put there",
                where=archive.path,
                expected=f"SHA-256 {archive.sha256}",
                found=tar.origin.sha256,
                hint="make it anew with --refresh",
            )

    @property
    def origin(self) -> Origin:
        """What was read."""
        _, archive = self._entered()
        return Origin(KIND, self._source, archive.sha256, archive.packages)

    def _entered(self) -> tuple[TarBase, CachedArchive]:
        if self._tar is None or self._found is None:
            raise ValueError("a base is a context manager")
        return self._tar, self._found


def host_architecture() -> str:
    """Return Debian's name of this host's architecture, which is the guest's."""
    return run(["dpkg", "--print-architecture"], package="dpkg").stdout.decode().strip()


def _require_keys(distribution: str) -> None:
    known = _DISTRIBUTIONS[distribution]
    if not os.path.isfile(known.keyring):
        raise NoInputError(
            f"the keys of {known.title}'s archive are missing",
            where=known.keyring,
            hint=f"apt-get install {known.keyring_package}",
        )
