"""Secure shell: who may come in with a key, and that no two guests share a host key.

A base with an ssh server has the host keys that its installation made. Every guest built from it would answer with the
same private key, and whoever can read the base could pose as all of them. So the private keys are emptied, and
`ssh-keygen -A`, which makes every host key that is missing or empty, runs before the server at each start: a guest has
keys of its own from its first start on. Keys that must outlive a reset of the root drive can be laid over.
"""

from __future__ import annotations

from umldisk.build.files.accounts import root_home
from umldisk.build.files.facts import BaseFacts, InitSystem
from umldisk.build.tree import Entry, directory, file, symlink
from umldisk.config.guest import Guest

_UNIT = "/etc/systemd/system/ssh-host-keys.service"


def entries(guest: Guest, facts: BaseFacts) -> list[Entry]:
    """Return root's authorized keys, emptied host keys and the unit that makes new ones."""
    made: list[Entry] = []
    if guest.files.login.ssh_keys:
        home = root_home(facts)
        made.append(directory(f"{home}/.ssh", 0o700))
        made.append(file(f"{home}/.ssh/authorized_keys", "\n".join(guest.files.login.ssh_keys) + "\n", 0o600))
    if makes_host_keys(facts):
        made += [file(path, "", 0o600) for path in facts.ssh_host_keys]
        made += _unit(facts) if facts.init is InitSystem.SYSTEMD else []
    return made


def makes_host_keys(facts: BaseFacts) -> bool:
    """Whether the guest makes its host keys itself."""
    known = facts.init in (InitSystem.SYSVINIT, InitSystem.SYSTEMD)
    return known and bool(facts.ssh_host_keys) and facts.ssh_keygen is not None


def _unit(facts: BaseFacts) -> list[Entry]:
    text = f"""\
[Unit]
Description=Make the ssh host keys that are missing
Before=ssh.service sshd.service ssh.socket

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={facts.ssh_keygen} -A

[Install]
WantedBy=multi-user.target
"""
    return [file(_UNIT, text), symlink("/etc/systemd/system/multi-user.target.wants/ssh-host-keys.service", _UNIT)]
