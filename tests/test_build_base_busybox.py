"""The embedded base: the host's busybox with its names and the directories around it."""

import hashlib
import os
import struct
from pathlib import Path

import pytest

from tests.kit.peers import needs
from umldisk.build.bases import busybox
from umldisk.build.bases.busybox import BusyboxBase
from umldisk.build.files.facts import InitSystem, inspect
from umldisk.build.files.render import guest_entries
from umldisk.build.tree import FileType, Tree, lay_over, plant
from umldisk.config.guest import Guest
from umldisk.errors import NoInputError

_PROGRAM = Path("/bin/busybox")


def _tree() -> Tree:
    with BusyboxBase() as base:
        return plant({}, base.entries())


@needs("busybox")
def test_the_base_answers_to_every_name_it_needs() -> None:
    tree = _tree()
    assert b"".join(data for _, data in tree["/bin/busybox"].contents.pieces()) == _PROGRAM.read_bytes()
    assert tree["/bin/busybox"].mode == 0o755
    for path in ("/sbin/init", "/bin/sh", "/bin/mount", "/sbin/swapon", "/sbin/getty"):
        assert (tree[path].type, tree[path].target) == (FileType.SYMLINK, "/bin/busybox")
    assert "/linuxrc" not in tree


@needs("busybox")
def test_the_base_is_told_with_its_digest() -> None:
    with BusyboxBase() as base:
        assert base.origin.sha256 is None
        assert list(base.entries())
        assert (base.origin.kind, base.origin.source) == ("busybox", "/bin/busybox")
        assert base.origin.sha256 == hashlib.sha256(_PROGRAM.read_bytes()).hexdigest()


@needs("busybox")
def test_everything_is_of_root_and_as_old_as_the_program() -> None:
    tree = _tree()
    assert {(inode.uid, inode.gid, inode.mtime_ns) for inode in tree.values()} == {(0, 0, _PROGRAM.stat().st_mtime_ns)}


@needs("busybox")
def test_directories_have_the_modes_of_a_system() -> None:
    tree = _tree()
    directories = {path: inode.mode for path, inode in tree.items() if inode.type is FileType.DIRECTORY}
    special = {path: mode for path, mode in directories.items() if mode != 0o755}
    assert special == {"/proc": 0o555, "/sys": 0o555, "/root": 0o700, "/tmp": 0o1777, "/var/tmp": 0o1777}
    assert {"/", "/dev", "/etc", "/home", "/run", "/var", "/var/log", "/usr/local/bin"} <= set(directories)


@needs("busybox")
def test_the_base_is_known_for_what_it_is() -> None:
    facts = inspect(_tree())
    assert facts.init is InitSystem.BUSYBOX
    assert facts.ifupdown
    assert facts.ip
    assert not facts.kmod
    assert not facts.fsck
    assert facts.getty == "/sbin/getty"


@needs("busybox")
def test_every_command_of_the_scripts_is_there() -> None:
    tree = _tree()
    guest = Guest("blackdance", "/site/guests/blackdance")
    lay_over(tree, guest_entries(guest, inspect(tree), mtime_ns=0))
    commands = {path.rpartition("/")[2] for path in tree}
    scripts = [tree[path].contents for path in ("/etc/init.d/rcS", "/etc/init.d/rcK")]
    lines = b"".join(data for text in scripts for _, data in text.pieces()).decode().splitlines()
    called = {line.split()[0] for line in lines if line[0] != "#" and line.split()[0] != "export"}
    assert called - commands == set()
    assert {"mount", "umount", "swapon", "swapoff", "ifup", "hostname", "kill"} <= called


def _elf(*kinds: int) -> bytes:
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<HH", header, 54, 56, len(kinds))
    return bytes(header) + b"".join(struct.pack("<I52x", kind) for kind in kinds)


@pytest.mark.parametrize(
    ("contents", "static"),
    [
        (_elf(1, 4), True),
        (_elf(1, 3, 4), False),
        (_elf(), False),
        (b"#!/bin/sh\n", False),
        (b"", False),
        (b"\x7fELF\x01\x01" + bytes(90), False),
        (_elf(1)[:40], False),
    ],
)
def test_a_static_program_asks_for_no_linker(contents: bytes, static: bool) -> None:
    assert busybox.is_static_elf(contents) is static


def _refusal(program: Path) -> NoInputError:
    with BusyboxBase(str(program)) as base, pytest.raises(NoInputError) as refused:
        list(base.entries())
    return refused.value


def test_a_missing_busybox_is_named_with_its_package(tmp_path: Path) -> None:
    assert _refusal(tmp_path / "busybox").hint == "apt-get install busybox-static"


def test_a_busybox_that_is_not_static_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "busybox"
    program.write_bytes(_elf(3))
    assert "not a static program" in str(_refusal(program))


def test_a_busybox_without_init_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "busybox"
    program.write_text("#!/bin/sh\necho bin/sh bin/mount sbin/getty\n")
    program.chmod(0o755)
    monkeypatch.setattr(busybox, "is_static_elf", lambda _contents: True)
    refused = str(_refusal(program))
    assert "cannot start a guest" in refused
    assert " init," in refused
    assert "getty" not in refused


@needs("busybox")
def test_the_time_is_that_of_the_program_to_the_nanosecond(tmp_path: Path) -> None:
    program = tmp_path / "busybox"
    program.write_bytes(_PROGRAM.read_bytes())
    program.chmod(0o755)
    os.utime(program, ns=(0, 1_600_000_000_123_456_789))
    with BusyboxBase(str(program)) as base:
        times = {inode.mtime_ns for inode in plant({}, base.entries()).values()}
    assert times == {1_600_000_000_123_456_789}
