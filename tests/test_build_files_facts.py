"""What is seen in the tree of a base."""

import pytest

from umldisk.build.files.facts import BaseFile, InitSystem, inspect
from umldisk.build.tree import Contents, Entry, FileType, HardLink, Inode, Tree, directory, file, plant, symlink

_MERGED = (symlink("/bin", "usr/bin"), symlink("/sbin", "usr/sbin"), symlink("/lib", "usr/lib"))
_DEBIAN = (*_MERGED, file("/usr/bin/ip", "ip"), file("/usr/sbin/agetty", "a"), symlink("/usr/sbin/getty", "agetty"))
_SYSTEMD = (
    *_DEBIAN,
    file("/usr/lib/systemd/systemd", "s"),
    symlink("/usr/sbin/init", "/lib/systemd/systemd"),
    file("/usr/lib/systemd/system/poweroff.target", ""),
)


def _tree(*entries: Entry | HardLink) -> Tree:
    return plant({}, entries)


@pytest.mark.parametrize(
    ("entries", "init"),
    [
        ((), InitSystem.NONE),
        ((directory("/sbin/init"),), InitSystem.NONE),
        ((symlink("/sbin/init", "/nowhere"),), InitSystem.NONE),
        (_SYSTEMD, InitSystem.SYSTEMD),
        ((*_SYSTEMD, file("/etc/inittab", "")), InitSystem.SYSTEMD),
        ((file("/sbin/init", "i"), file("/etc/inittab", "")), InitSystem.SYSVINIT),
        ((file("/sbin/init", "i"),), InitSystem.OTHER),
        ((file("/bin/busybox", "b"), symlink("/sbin/init", "../bin/busybox")), InitSystem.BUSYBOX),
        ((file("/bin/busybox", "b"), HardLink("/sbin/init", "/bin/busybox")), InitSystem.BUSYBOX),
        ((*_MERGED, file("/usr/bin/busybox", "b"), symlink("/usr/sbin/init", "/bin/busybox")), InitSystem.BUSYBOX),
        (
            (file("/bin/busybox", "b"), symlink("/sbin/init", "/bin/busybox"), file("/sbin/openrc", "o")),
            InitSystem.OTHER,
        ),
    ],
)
def test_the_init_is_told_by_what_is_run(entries: tuple[Entry, ...], init: InitSystem) -> None:
    assert inspect(_tree(*entries)).init is init


def test_programs_are_found_through_merged_directories() -> None:
    facts = inspect(_tree(*_SYSTEMD, file("/usr/lib/systemd/systemd-udevd", "u"), file("/usr/sbin/modprobe", "m")))
    assert (facts.ip, facts.udev, facts.kmod, facts.getty) == (True, True, True, "/sbin/getty")
    assert (facts.networkd, facts.resolved, facts.ifupdown, facts.fsck) == (False, False, False, False)
    assert facts.unit_directory == "/usr/lib/systemd/system"


def test_systemd_may_lie_outside_of_usr() -> None:
    facts = inspect(_tree(file("/lib/systemd/system/poweroff.target", "")))
    assert facts.unit_directory == "/lib/systemd/system"


def test_agetty_stands_in_for_getty() -> None:
    assert inspect(_tree(file("/usr/sbin/agetty", "a"))).getty == "/usr/sbin/agetty"


def test_a_modprobe_that_is_busybox_does_not_count() -> None:
    assert not inspect(_tree(file("/bin/busybox", "b"), symlink("/sbin/modprobe", "/bin/busybox"))).kmod


@pytest.mark.parametrize("names", [(), ("fsck",), ("fsck.ext4",), ("fsck", "fsck.ext4"), ("fsck", "fsck.ext2")])
def test_checking_takes_fsck_and_the_one_for_ext(names: tuple[str, ...]) -> None:
    facts = inspect(_tree(*(file(f"/sbin/{name}", name) for name in names)))
    assert facts.fsck is (len(names) == 2)


@pytest.mark.parametrize(
    ("text", "os_id"), [("NAME=x\nID=debian\n", "debian"), ('ID="alpine"\n', "alpine"), ("VERSION_ID=1\n", "")]
)
def test_the_distribution_is_read_through_a_symlink(text: str, os_id: str) -> None:
    tree = _tree(file("/usr/lib/os-release", text), symlink("/etc/os-release", "../usr/lib/os-release"))
    assert inspect(tree).os_id == os_id


def test_texts_come_with_their_owners_and_any_bytes() -> None:
    xattrs = (("security.selinux", b"label"),)
    inode = Inode(FileType.FILE, 0o640, 0, 42, contents=file("/x", b"root:*:\xff\n").inode.contents, xattrs=xattrs)
    facts = inspect(_tree(Entry("/etc/shadow", inode)))
    assert facts.files["/etc/shadow"] == BaseFile("root:*:\udcff\n", 0o640, 0, 42, xattrs)
    assert facts.text("/etc/passwd") is None


class _Pieces:
    """Contents with a hole."""

    size_bytes = 12

    def pieces(self) -> list[tuple[int, bytes]]:
        return [(0, b"ab"), (8, b"cd")]


def test_holes_are_zeros() -> None:
    contents: Contents = _Pieces()  # type: ignore[assignment]
    facts = inspect(_tree(Entry("/etc/profile", Inode(FileType.FILE, 0o644, contents=contents))))
    assert facts.text("/etc/profile") == "ab" + "\0" * 6 + "cd" + "\0" * 2


def test_host_keys_and_sources_are_listed() -> None:
    keys = [file(f"/etc/ssh/{name}", "") for name in ("ssh_host_rsa_key", "ssh_host_rsa_key.pub", "sshd_config")]
    apt = [file(f"/etc/apt/sources.list.d/{name}", "") for name in ("debian.sources", "x.list", "x.list.save")]
    facts = inspect(_tree(*keys, *apt, file("/usr/bin/ssh-keygen", "k")))
    assert facts.ssh_host_keys == ("/etc/ssh/ssh_host_rsa_key",)
    assert facts.apt_files == ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list.d/x.list")
    assert facts.ssh_keygen == "/usr/bin/ssh-keygen"


def test_a_resolver_link_is_told() -> None:
    assert inspect(_tree(symlink("/etc/resolv.conf", "../run/x"))).resolv_conf_link == "../run/x"
    assert inspect(_tree(file("/etc/resolv.conf", ""))).resolv_conf_link is None
