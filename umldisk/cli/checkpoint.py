"""`umldisk checkpoint`: the state of a guest's drives, night by night."""

from __future__ import annotations

import click

from umldisk.cli.lazy import Lazy, LazyGroup

_HELP = """Record the state of a guest's drives, and list, compare, verify, export and prune what was recorded.

A checkpoint is one drive at one time. It is named by its number, as `list` shows it, by the word
latest, or by a time, which means the newest one by then: 2026-11-20 (the end of that day) or
'2026-11-20 03:15', in this machine's zone.

\b
Examples:
  umldisk checkpoint take blackdance
  umldisk checkpoint list blackdance
  umldisk checkpoint diff blackdance 12 latest

`umldisk restore` brings a guest back.
"""

_PACKAGE = "umldisk.cli.checkpoints"

COMMANDS = {
    "take": Lazy(f"{_PACKAGE}.take:take", "Record drives as they are now."),
    "list": Lazy(f"{_PACKAGE}.list:list_", "List checkpoints."),
    "show": Lazy(f"{_PACKAGE}.show:show", "Show all that is known of a checkpoint."),
    "diff": Lazy(f"{_PACKAGE}.diff:diff", "Tell where two checkpoints differ."),
    "export": Lazy(f"{_PACKAGE}.export:export", "Write a checkpoint as an image or a COW file."),
    "verify": Lazy(f"{_PACKAGE}.verify:verify", "Prove the history, and read again what is stored."),
    "anchor": Lazy(f"{_PACKAGE}.verify:anchor", "Print one line that proves the history."),
    "protect": Lazy(f"{_PACKAGE}.marks:protect", "Keep checkpoints from being pruned."),
    "unprotect": Lazy(f"{_PACKAGE}.marks:unprotect", "Let checkpoints be pruned again."),
    "tag": Lazy(f"{_PACKAGE}.marks:tag", "Give checkpoints a tag."),
    "untag": Lazy(f"{_PACKAGE}.marks:untag", "Take a tag from checkpoints."),
    "prune": Lazy(f"{_PACKAGE}.prune:prune", "Mark for removal what no rule keeps."),
    "gc": Lazy(f"{_PACKAGE}.prune:gc", "Reclaim the room of what is marked."),
    "rebuild": Lazy(f"{_PACKAGE}.rebuild:rebuild", "Make the catalog anew from the store."),
}


@click.group(cls=LazyGroup, table=COMMANDS, help=_HELP, no_args_is_help=False)
def checkpoint() -> None:
    """Look at the table."""
