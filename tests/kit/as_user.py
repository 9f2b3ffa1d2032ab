"""Building as an ordinary user, in a process of its own, when the tests themselves are root."""

import subprocess
import sys
from pathlib import Path

USER_ID = 61_234
"""A user and group that no account of a machine has."""

_CHECKOUT = Path(__file__).resolve().parents[2]

# All is imported before the rights are given up: the checkout may be readable by root alone.
_BUILD = """
import json, os, sys
import umldisk.build.bases.bootstrap, umldisk.build.bases.busybox, umldisk.build.bases.choose
import umldisk.build.bases.directory, umldisk.build.bases.image, umldisk.build.bases.tar
import umldisk.config.load, umldisk.image.extfs.volume, bz2, lzma, tomllib, zlib, zstandard, tarfile
from umldisk.config.site import Site
from umldisk.ops.provision import BuildOptions, build_guest
site, name, options, umask, uid = sys.argv[1:]
uid = int(uid)
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
os.umask(int(umask, 8))
build_guest(Site(site), name, BuildOptions(**json.loads(options)))
"""


def build_as_user(
    site: str,
    name: str,
    environment: dict[str, str],
    *,
    options: str = "{}",
    umask: str = "022",
    uid: int = USER_ID,
) -> None:
    """Build the guest `name` below `site`, which the user must be able to write; `options` is JSON."""
    argv = [sys.executable, "-c", _BUILD, site, name, options, umask, str(uid)]
    built = subprocess.run(argv, cwd=_CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
