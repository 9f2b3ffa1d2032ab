"""Texts of umldisk.toml, and what they come to."""

import pytest

from umldisk.config.guest import Guest
from umldisk.config.load import parse_configuration
from umldisk.config.problems import ConfigError, Problem

SITE = "/s"
PATH = f"{SITE}/umldisk.toml"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
HASH = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/"


def problems(text: str) -> list[Problem]:
    """Return all that is wrong with a text, which has to be something."""
    with pytest.raises(ConfigError) as refused:
        parse_configuration(text, path=PATH)
    return list(refused.value.problems)


def guest(text: str, name: str = "x") -> Guest:
    """Return what a text makes of a guest."""
    return parse_configuration(text, path=PATH).guest(name, f"{SITE}/guests/{name}")


def one_guest(*settings: str) -> str:
    """Return a text with the table of guest x, one setting a line."""
    return "\n".join(["[guest.x]", *settings, ""])
