"""A site: the directory under which guests live, and the rule that finds it.

    --site DIR, else UMLDISK_SITE, else the directory of the nearest umldisk.toml from the working
    directory upwards, else /var/uml for root and the user data directory for everyone else

A site works without a umldisk.toml. An empty one marks a directory as a site; this version reads no
settings, and says so instead of passing over some.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from umldisk.config.guest import Guest, require_guest_name
from umldisk.errors import DataError, NoInputError, UsageError

CONFIG_NAME = "umldisk.toml"
SITE_VARIABLE = "UMLDISK_SITE"
_ROOT_SITE = "/var/uml"


@dataclass(frozen=True, slots=True)
class Site:
    """A site's directory, absolute; it need not exist."""

    directory: str

    def guest(self, name: str) -> Guest:
        """Return the guest called `name`; raises UsageError when that is no name for one."""
        return Guest(require_guest_name(name), os.path.join(self.directory, "guests", name))


def find_site(
    given: str | None,
    *,
    environ: Mapping[str, str],
    cwd: str,
    is_root: bool,
    home: str | None = None,
) -> Site:
    """Find the site by the rule above; `given` is the argument of --site, `home` a home directory.

    Raises DataError when the site's umldisk.toml holds settings.
    """
    directory = (
        _explicit(given, environ, cwd) or _nearest_marked(cwd) or (_ROOT_SITE if is_root else _user_site(environ, home))
    )
    require_no_settings(os.path.join(directory, CONFIG_NAME))
    return Site(directory)


def _explicit(given: str | None, environ: Mapping[str, str], cwd: str) -> str | None:
    if given == "":
        raise UsageError("--site names no directory")
    chosen = given or environ.get(SITE_VARIABLE)
    return os.path.normpath(os.path.join(cwd, chosen)) if chosen else None


def _nearest_marked(cwd: str) -> str | None:
    for directory in (Path(cwd), *Path(cwd).parents):
        if (directory / CONFIG_NAME).is_file():
            return str(directory)
    return None


def _user_site(environ: Mapping[str, str], home: str | None) -> str:
    data = environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(data):  # the XDG rule: a relative path is to be ignored
        data = os.path.join(home or os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "umldisk")


def require_no_settings(path: str) -> None:
    """Raise DataError when `path` exists and says anything."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        return
    except OSError as error:
        raise NoInputError(f"cannot read: {error.strerror}", where=path) from error
    lines = (line.strip() for line in text.splitlines())
    if any(line and not line.startswith(b"#") for line in lines):
        raise DataError(
            "this version of umldisk reads no configuration",
            where=path,
            expected="nothing but comments",
            found="settings",
            hint="empty the file; guests are built with the defaults",
        )
