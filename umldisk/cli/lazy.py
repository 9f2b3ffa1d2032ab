"""A group of commands, each imported when it is called: whoever asks for one waits for no other."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click


class Lazy(NamedTuple):
    """Where a command is, and its line in the list of commands."""

    target: str
    summary: str


class LazyGroup(click.Group):
    """A group that imports a command's module when that command is asked for, and none to list them."""

    def __init__(self, *arguments: Any, table: Mapping[str, Lazy], **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        if cmd_name not in self.table:
            return None
        module, _colon, name = self.table[cmd_name].target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in self.table.items()])
