"""Everything that is wrong with a site's umldisk.toml, as a report."""

from __future__ import annotations

import os
from dataclasses import dataclass

from umldisk.config.problems import ConfigError, Problem
from umldisk.config.site import Site


@dataclass(frozen=True, slots=True)
class ConfigCheck:
    """What a check found: `guests` are those with a table, none while there are `problems`."""

    path: str
    exists: bool
    guests: tuple[str, ...]
    problems: tuple[Problem, ...]


def check_config(site: Site) -> ConfigCheck:
    """Check the site's umldisk.toml and, when that is right, the files that it names.

    Raises NoInputError and StorageError when it is there and cannot be read.
    """
    path = site.config_path
    try:
        site.configuration.require_files()
    except ConfigError as error:
        return ConfigCheck(path, True, (), error.problems)
    return ConfigCheck(path, os.path.lexists(path), tuple(site.configuration.guests), ())
