r"""The agent: a shell script in the guest that does what the host asks for on the first serial line, /dev/ttyS0.

    host                                        guest
    ?TOKEN ping                          ──▶
                                         ◀──    !TOKEN ok
    ?TOKEN freeze SECONDS POINT...       ──▶    fsfreeze of each, in this order
                                         ◀──    !TOKEN ok | !TOKEN err WORDS (then nothing is frozen)
    ?TOKEN thaw                          ──▶
                                         ◀──    !TOKEN ok | !TOKEN err WORDS (thawed all the same)
    ?TOKEN run SECONDS COMMAND           ──▶    sh -c COMMAND
                                         ◀──    !TOKEN out HEX...    (any number, output and errors together)
                                         ◀──    !TOKEN end STATUS

One line is one message. POINT and COMMAND are one word each: a byte that a word cannot have is written \0OOO, in octal,
as printf's %b reads it. Every message begins on a line of its own, whatever was cut off before it. TOKEN is the host's
and comes back with each answer, so that the answer to an older request is known as such. A new request ends the run
before it, which nobody waits for any more.

*Freezing.* Between freeze and thaw nothing may write to the frozen file systems, of which root may be one: the script
writes to the line alone, and running a program only reads. It keeps no file and no log. A guard is started before the
first freeze and thaws after SECONDS, whatever becomes of the agent. An agent that is told to end thaws first. `thaw`
answers with an error when something was not frozen any more, so that nobody takes a copy that was made meanwhile for
a consistent one. There is no way but fsfreeze (of util-linux and of busybox); without it `freeze` is unsupported.

*Running.* The command has a session of its own, of which every process is killed when the command has ended or its
time is over. What moved to another session stays, but cannot hold up the answer. At most 64 KiB of output are sent,
and one byte more where there was more; the rest is read and dropped, so that the command never waits for the host.

*The line.* Its echo and its translation of line ends are switched off where there is a stty; the host bears both. A
guest whose line leads nowhere has an agent that sleeps. Where ttyS0 is a console there is no agent.
"""

from __future__ import annotations

from umldisk.build.files.facts import BaseFacts, InitSystem
from umldisk.build.tree import Entry, file, symlink
from umldisk.config.guest import Guest

PROGRAM = "/usr/local/sbin/host-agent"
LINE = "ttyS0"
_UNIT = "/etc/systemd/system/host-agent.service"
_WANTED = "/etc/systemd/system/multi-user.target.wants/host-agent.service"
_OUTPUT_BYTES = 64 << 10
_KNOWN = (InitSystem.BUSYBOX, InitSystem.SYSVINIT, InitSystem.SYSTEMD)

_SCRIPT = rf"""#!/bin/sh
# Does what the host asks for on the first serial line. While file systems are frozen nothing here may write a file.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

# say TOKEN WORD...
say() {{
    printf '\n!%s\n' "$*"
}}

# mine PID: whether this child still lives; its number may be another's by now
mine() {{
    [ -n "$1" ] && read -r _ _ state parent _ <"/proc/$1/stat" && [ "$parent" = "$$" ] && [ "$state" != Z ]
}}

# unfreeze POINT...: fails where one was not frozen, and thaws the others
unfreeze() {{
    failed=0
    for point; do
        fsfreeze --unfreeze "$(printf '%b' "$point")" || failed=1
    done
    return "$failed"
}}

# Ends the freeze that there is, if there is one; fails where it had ended before.
release() {{
    unfreeze $frozen
    released=$?
    frozen=
    if mine "$guard"; then
        kill -KILL "$guard"
        wait "$guard"
    fi
    guard=
    return "$released"
}}

# freeze SECONDS POINT...
freeze() {{
    seconds=$1
    shift
    release
    if ! command -v fsfreeze >/dev/null; then
        say "$token" err unsupported: no fsfreeze
        return
    fi
    backwards=
    for point; do
        backwards="$point $backwards"
    done
    (
        trap : TERM
        sleep "$seconds"
        unfreeze $backwards
    ) </dev/null >/dev/null &
    guard=$!
    for point; do
        if words=$(fsfreeze --freeze "$(printf '%b' "$point")" 2>&1); then
            frozen="$point $frozen"
        else
            release
            say "$token" err $words
            return
        fi
    done
    if mine "$guard"; then
        say "$token" ok
    else
        release
        say "$token" err it took longer than "$seconds" s
    fi
}}

thaw() {{
    if [ -z "$frozen" ]; then
        say "$token" err nothing is frozen
    elif release; then
        say "$token" ok
    else
        say "$token" err thawed before
    fi
}}

# within SECONDS COMMAND, in a session of its own
within() {{
    (
        sleep "$1"
        kill -KILL "-$$"
    ) >/dev/null 2>&1 &
    exec sh -c "$2"
}}

# give_up SECONDS: then ends all of the session that does not ignore SIGTERM
give_up() {{
    (
        sleep "$1"
        kill -TERM "-$$"
    ) >/dev/null 4>&- &
}}

# answer TOKEN SECONDS COMMAND, in a session of its own, with the line as 3
answer() {{
    exec 2>/dev/null
    trap '' TERM
    status=$(
        exec 4>&1
        {{
            trap - TERM
            setsid "$0" within "$2" "$3" 2>&1 3>&- 4>&- &
            command=$!
            # A process that waits for a frozen file system cannot be killed.
            give_up $(($2 + 3))
            wait "$command"
            status=$?
            kill -KILL "-$command"
            echo "$status" >&4
            # What got away to another session may still hold the output.
            give_up 3
        }} | {{
            trap - TERM
            exec cat
        }} | {{
            od -An -v -tx1 -N {_OUTPUT_BYTES + 1}
            cat >/dev/null
        }} | sed "s/^/!$1 out/" >&3
    )
    say "$1" end "${{status:-137}}" >&3
    kill -KILL "-$$"
}}

# run SECONDS WORD...
run() {{
    if ! command -v setsid >/dev/null; then
        say "$token" err unsupported: no setsid
        return
    fi
    seconds=$1
    shift
    (
        trap - HUP
        exec setsid "$0" answer "$token" "$seconds" "$(printf '%b' "$*")" </dev/null 3>&1 >/dev/null
    ) &
    running=$!
}}

case $1 in
within | answer)
    "$@"
    exit
    ;;
esac

cd /
exec 2>/dev/null
command exec <>/dev/{LINE} >&0 || {{
    sleep 60
    exit 1
}}
stty raw -echo
guard= frozen= running=
set -f
trap '' HUP
trap 'release; exit 0' TERM
while read -r line; do
    case $line in
    '?'*' '*) ;;
    *) continue ;;
    esac
    set -- ${{line#?}}
    [ $# -ge 2 ] || continue
    token=$1 verb=$2
    shift 2
    if mine "$running"; then
        kill -KILL "-$running"
    fi
    running=
    case $verb in
    ping) say "$token" ok ;;
    thaw) thaw ;;
    freeze | run)
        if [ $# -ge 2 ]; then
            "$verb" "$@"
        else
            say "$token" err incomplete: "$verb"
        fi
        ;;
    *) say "$token" err unsupported: "$verb" ;;
    esac
done
release
trap - TERM
sleep 60
"""

_SERVICE = f"""\
[Unit]
Description=Answers to the host on the first serial line
StartLimitIntervalSec=0

[Service]
ExecStart={PROGRAM}
StandardInput=null
StandardOutput=null
StandardError=null
# What thaws a frozen file system outlives the agent.
KillMode=process
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
"""


def entries(guest: Guest, facts: BaseFacts) -> list[Entry]:
    """Return the agent, and for systemd its unit; the inittabs of the other inits have a line of their own."""
    if not has_agent(guest, facts):
        return []
    unit = [file(_UNIT, _SERVICE), symlink(_WANTED, _UNIT)] if facts.init is InitSystem.SYSTEMD else []
    return [file(PROGRAM, _SCRIPT, 0o755), *unit]


def has_agent(guest: Guest, facts: BaseFacts) -> bool:
    """Whether the guest gets an agent: it is wanted, its line is no console, and something can start it."""
    return guest.files.agent and LINE not in guest.files.consoles and facts.init in _KNOWN
