"""The ready marker: one line on the console, `umldisk: NAME is ready`, for whoever waits for the guest.

It is written once at every start, when all that the base starts by itself has been started. Each init writes it in its
own way; the words are here.
"""

from __future__ import annotations

from umldisk.config.guest import Guest


def ready_marker(guest: Guest) -> str:
    """Return the console line that says that the guest has started; it holds no character special to a shell."""
    return f"umldisk: {guest.name} is ready"
