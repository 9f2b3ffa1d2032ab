"""A site: the directory under which guests live, and the rule that finds it.

    --site DIR, else UMLDISK_SITE, else the directory of the nearest umldisk.toml from the working
    directory upwards, else /var/uml for root and the user data directory for everyone else

A site works without a umldisk.toml, and so does a guest without a table there. The file is read when a guest is asked
for, once for a `Site`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from umldisk.config.guest import Guest, is_guest_name, require_guest_name
from umldisk.errors import UsageError, from_os_error

if TYPE_CHECKING:
    from umldisk.config.load import Configuration

CONFIG_NAME = "umldisk.toml"
SITE_VARIABLE = "UMLDISK_SITE"
_GUESTS = "guests"
_RUN = "run"
_ROOT_SITE = "/var/uml"


@dataclass(frozen=True)  # without slots: cached_property keeps what it read in __dict__
class Site:
    """A site's directory, absolute; it need not exist."""

    directory: str

    @property
    def config_path(self) -> str:
        """Where the site's umldisk.toml lies if it has one."""
        return os.path.join(self.directory, CONFIG_NAME)

    def run_directory(self, name: str) -> str:
        """Where what is known of a running guest lies; it belongs to whoever starts guests, not to the guest."""
        return os.path.join(self.directory, _RUN, require_guest_name(name))

    @cached_property
    def configuration(self) -> Configuration:
        """What the site's umldisk.toml says, read at the first use.

        Raises ConfigError with every problem, NoInputError and StorageError when it cannot be read.
        """
        from umldisk.config.load import load_configuration

        return load_configuration(self.config_path)

    def guest(self, name: str) -> Guest:
        """Return the guest called `name`, with the defaults when umldisk.toml has no table for it.

        Raises UsageError when that is no name for one, and what `configuration` raises.
        """
        directory = os.path.join(self.directory, _GUESTS, require_guest_name(name))
        if not os.path.lexists(self.config_path):
            return Guest(name, directory)
        return self.configuration.guest(name, directory)

    def guest_names(self) -> tuple[str, ...]:
        """Return the names of the guests that have a table, in its order, then of those that have only a directory.

        Raises what `configuration` raises, and StorageError when the directory of guests cannot be listed.
        """
        directory = os.path.join(self.directory, _GUESTS)
        try:
            with os.scandir(directory) as entries:
                found = sorted(entry.name for entry in entries if entry.is_dir() and is_guest_name(entry.name))
        except (FileNotFoundError, NotADirectoryError):
            found = []
        except OSError as error:
            raise from_os_error(error, "list", directory) from error
        return tuple(dict.fromkeys([*self.configuration.guests, *found]))


def find_site(
    given: str | None,
    *,
    environ: Mapping[str, str],
    cwd: str,
    is_root: bool,
    home: str | None = None,
) -> Site:
    """Find the site by the rule above; `given` is the argument of --site, `home` a home directory."""
    directory = (
        _explicit(given, environ, cwd) or _nearest_marked(cwd) or (_ROOT_SITE if is_root else _user_site(environ, home))
    )
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
