"""Bases for tests: a real Debian that is bootstrapped once, and small archives that pass for one.

The real one lies in umldisk's own cache, in a directory outside the checkout. Whichever test asks first makes it, tests
in other processes wait for it, and later runs find it.
"""

import io
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.kit.peers import in_ci, require
from umldisk.build.bases.bootstrap import BootstrapBase
from umldisk.build.bases.bootstrap_cache import CachedArchive
from umldisk.config.settings import Bootstrap, Init
from umldisk.errors import NoInputError

SUITE = "bookworm"
EPOCH = "1700000000"
_RELEASE_FILE = f"http://deb.debian.org/debian/dists/{SUITE}/InRelease"
_MIRROR_TIMEOUT_SECONDS = 20

STATUS = """\
Package: zlib1g
Status: install ok installed
Version: 1:1.3

Package: gone
Status: deinstall ok config-files
Version: 9

Package: adduser
Status: hold ok installed
Description: makes users
 Status: none of this is a field
 Package: nor is this
Version: 3.134
"""
"""A file of dpkg with two packages that are installed and one that is not."""


def debian_base(init: Init) -> Path:
    """Return the tar of a real Debian bookworm with this init, made at EPOCH; it is not to be written.

    Skips the running test where mmdebstrap or the mirror is missing, or fails it under CI=true.
    """
    return Path(real_debian(init).path)


def lend_debian(cache: Path, init: Init) -> None:
    """Put the same archive into a site's cache.

    `debian:bookworm` with this init, and no other settings, is then found there under SOURCE_DATE_EPOCH=EPOCH.
    """
    archive = debian_base(init)
    cache.mkdir(parents=True, exist_ok=True)
    for path in (archive, archive.with_suffix(".json")):
        try:
            (cache / path.name).hardlink_to(path)
        except OSError:  # another file system
            shutil.copyfile(path, cache / path.name)


def real_debian(init: Init, *, refresh: bool = False) -> CachedArchive:
    """Return the archive with its record, made anew on request; skips as `debian_base` does."""
    require("mmdebstrap")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SOURCE_DATE_EPOCH", EPOCH)
            settings = Bootstrap(init=init)
            return BootstrapBase("debian", SUITE, settings, cache=_cache_directory(), refresh=refresh).obtain()
    except NoInputError:
        require_mirror()
        raise


def _cache_directory() -> Path:
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "umldisk-tests"


def require_mirror() -> None:
    """Skip the running test if Debian's mirror cannot be reached, or fail it under CI=true."""
    try:
        with urllib.request.urlopen(_RELEASE_FILE, timeout=_MIRROR_TIMEOUT_SECONDS):
            return
    except (OSError, urllib.error.URLError) as error:
        reason = f"cannot reach {_RELEASE_FILE}: {error}"
    if in_ci():
        pytest.fail(f"{reason} (CI=true: the mirror has to be there)", pytrace=False)
    pytest.skip(reason)


def debian_archive(status: str = STATUS, *, word: str = "x") -> bytes:
    """Return a small tar with a dpkg status file and /etc/word."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, text in (("./var/lib/dpkg/status", status), ("./etc/word", word)):
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return stream.getvalue()


class Maker:
    """Writes one archive after the other, the last one again and again, and counts how often it did."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = contents or (debian_archive(),)
        self.calls = 0

    def __call__(self, output: int, lock: int) -> str:
        data = self.contents[min(self.calls, len(self.contents) - 1)]
        self.calls += 1
        os.write(output, data)
        return "maker 1.0"
