"""The rendered files of a guest, and the busybox base."""

import dataclasses
import struct
import subprocess
from pathlib import Path

import pytest

from tests.kit.peers import needs
from umldisk.build import busybox, skeleton
from umldisk.build.tree import FileType, make_tree
from umldisk.config.guest import Guest
from umldisk.errors import NoInputError
from umldisk.image.drives import DRIVES, VAR

_GUEST = Guest("blackdance", "/site/guests/blackdance")


def _contents(guest: Guest = _GUEST) -> dict[str, str]:
    return {entry.path: entry.contents.decode() for entry in skeleton.skeleton(guest)}


def test_fstab_has_every_drive() -> None:
    assert skeleton.fstab(_GUEST) == (
        "# device  mount point  type  options  dump  pass\n"
        "/dev/ubda / ext4 noatime 0 0\n"
        "/dev/ubdb /var ext4 noatime 0 0\n"
        "/dev/ubdc /home ext4 noatime 0 0\n"
        "/dev/ubdd /tmp ext4 noatime 0 0\n"
        "/dev/ubde none swap sw 0 0\n"
    )


@needs("findmnt")
def test_fstab_is_understood(tmp_path: Path) -> None:
    table = tmp_path / "fstab"
    table.write_text(skeleton.fstab(_GUEST))
    command = ["findmnt", "--tab-file", str(table), "--noheadings", "--output", "TARGET"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True)
    assert listed.stdout.split() == ["/", "/var", "/home", "/tmp", "none"]


def test_the_drives_decide_the_fstab() -> None:
    moved = dataclasses.replace(VAR, mount_point="/srv", ubd=7)
    lines = skeleton.fstab(Guest("x", "/x", (DRIVES[0], moved))).splitlines()
    assert lines[1:] == ["/dev/ubda / ext4 noatime 0 0", "/dev/ubdh /srv ext4 noatime 0 0"]


def test_the_name_is_where_it_belongs() -> None:
    named = {path for path, text in _contents().items() if "blackdance" in text}
    assert named == {"/etc/hostname", "/etc/hosts", "/etc/init.d/rcS"}


def test_ctrl_alt_del_powers_off() -> None:
    assert "::ctrlaltdel:/sbin/poweroff\n" in _contents()["/etc/inittab"]
    assert "::shutdown:/etc/init.d/rcK\n" in _contents()["/etc/inittab"]


def test_no_account_has_a_usable_password() -> None:
    passwords = [line.split(":")[1] for line in _contents()["/etc/shadow"].splitlines()]
    assert passwords
    assert set(passwords) <= {"!", "*"}
    assert {line.split(":")[1] for line in _contents()["/etc/passwd"].splitlines()} == {"x"}


@needs("busybox")
@pytest.mark.parametrize("path", ["/etc/init.d/rcS", "/etc/init.d/rcK", "/sbin/console-login", "/etc/profile"])
def test_scripts_are_valid_shell(path: str) -> None:
    subprocess.run(["busybox", "sh", "-n"], input=_contents()[path], text=True, check=True)


def test_the_skeleton_is_a_tree_of_root() -> None:
    tree = make_tree(skeleton.skeleton(_GUEST))
    assert {entry.uid for entry in tree} == {0}
    shadow = next(entry for entry in tree if entry.path == "/etc/shadow")
    assert (shadow.mode, shadow.gid) == (0o640, 42)
    scripts = [entry for entry in tree if entry.contents.startswith(b"#!")]
    assert {entry.mode for entry in scripts} == {0o755}


@needs("busybox")
def test_the_base_answers_to_every_name_it_needs() -> None:
    tree = {entry.path: entry for entry in busybox.busybox_tree(_GUEST)}
    assert tree["/bin/busybox"].contents == Path("/bin/busybox").read_bytes()
    assert tree["/bin/busybox"].mode == 0o755
    for path in ("/sbin/init", "/bin/sh", "/bin/mount", "/sbin/swapon", "/sbin/getty"):
        assert tree[path].type is FileType.SYMLINK
        assert tree[path].target == "/bin/busybox"
    assert "/linuxrc" not in tree


@needs("busybox")
def test_every_command_of_the_scripts_is_there() -> None:
    tree = {entry.path for entry in busybox.busybox_tree(_GUEST)}
    commands = {path.rpartition("/")[2] for path in tree}
    used = {"mount", "umount", "swapon", "swapoff", "grep", "mkdir", "hostname", "ip", "sync", "usleep"}
    assert used <= commands
    text = "\n".join(_contents().values())
    assert all(command in text for command in used)


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


def test_a_missing_busybox_is_named_with_its_package(tmp_path: Path) -> None:
    with pytest.raises(NoInputError) as refused:
        busybox.busybox_tree(_GUEST, program=str(tmp_path / "busybox"))
    assert refused.value.hint == "apt-get install busybox-static"


def test_a_busybox_that_is_not_static_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "busybox"
    program.write_bytes(_elf(3))
    with pytest.raises(NoInputError, match="not a static program"):
        busybox.busybox_tree(_GUEST, program=str(program))


def test_a_busybox_without_init_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "busybox"
    program.write_text("#!/bin/sh\necho bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(busybox, "is_static_elf", lambda _contents: True)
    with pytest.raises(NoInputError, match="no getty, init, login"):
        busybox.busybox_tree(_GUEST, program=str(program))
