"""The site that a command works on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from umldisk.cli.options import Globals

if TYPE_CHECKING:
    from umldisk.config.site import Site


def current_site(context: click.Context) -> Site:
    """Find the site by --site, the environment and the working directory; raises UsageError."""
    from umldisk.config.site import find_site

    settings = context.find_object(Globals) or Globals()
    return find_site(settings.site_dir, environ=os.environ, cwd=os.getcwd(), is_root=os.geteuid() == 0)
