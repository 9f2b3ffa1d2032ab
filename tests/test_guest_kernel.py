"""Kernels: what is one, what it is loaded with, what it can do."""

import os
import re
import struct
import subprocess
from pathlib import Path

import pytest

from tests.kit.peers import needs
from umldisk.errors import DataError, NoInputError
from umldisk.guest.kernel import find_kernel

_TRANSPORTS_SINCE_4_18 = {"tap", "hybrid", "raw", "gre", "l2tpv3"}


def _program(path: Path, contents: bytes) -> str:
    path.write_bytes(contents)
    path.chmod(0o755)
    return str(path)


def _elf(kind: int = 2, *, order: str = "<", text: bytes = b"") -> bytes:
    """An ELF header of this e_type, which no machine could run, and text behind it."""
    ident = b"\x7fELF" + bytes([2, 1 if order == "<" else 2, 1]) + bytes(9)
    return ident + struct.pack(order + "HH", kind, 0xFFFF) + bytes(44) + text


@needs("linux", "ldd")
def test_the_machines_kernel_is_found_behind_its_symlinks() -> None:
    kernel = find_kernel("linux")
    assert os.path.realpath(kernel.path) == kernel.path
    assert kernel == find_kernel(kernel.path)
    assert kernel.is_user_mode_linux


@needs("linux", "bwrap", "ldd")
def test_it_runs_with_its_libraries_and_nothing_else() -> None:
    kernel = find_kernel("linux")
    binds = [word for pair in (*kernel.libraries, (kernel.path,) * 2) for word in ("--ro-bind", *pair)]
    jailed = subprocess.run(
        ["bwrap", "--unshare-all", *binds, "--", kernel.path, "--version"], capture_output=True, text=True, check=False
    )
    assert (jailed.returncode, jailed.stderr) == (0, "")
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", jailed.stdout)
    for left_out in kernel.libraries:
        fewer = [w for pair in kernel.libraries if pair != left_out for w in ("--ro-bind", *pair)]
        own = ["--ro-bind", kernel.path, kernel.path]
        argv = ["bwrap", "--unshare-all", *fewer, *own, "--", kernel.path, "--version"]
        assert subprocess.run(argv, capture_output=True, check=False).returncode != 0


@needs("linux")
def test_its_transports_are_those_of_its_own_configuration() -> None:
    kernel = find_kernel("linux")
    shown = subprocess.run([kernel.path, "--showconfig"], capture_output=True, text=True, check=False).stdout
    options = {name.lower() for name in re.findall(r"^CONFIG_UML_NET_([A-Z]+)=y$", shown, re.MULTILINE)}
    vector = kernel.transports - (options - {"vector"})
    assert options - {"vector"} <= kernel.transports
    if "vector" in options:
        assert vector >= _TRANSPORTS_SINCE_4_18
    assert vector <= ({*_TRANSPORTS_SINCE_4_18, "bess", "fd"} if "vector" in options else set())


@needs("ldd")
def test_transports_are_not_told_by_their_bare_names(tmp_path: Path) -> None:
    text = b"\0tap\0raw\0fd\0tuntap\0# CONFIG_UML_NET_TUNTAP is not set\n\0CONFIG_UML_NET_DAEMON=y\n\0fd open: bad\0"
    kernel = find_kernel(_program(tmp_path / "linux", _elf(text=text)))
    assert kernel.transports == {"daemon"}
    assert not kernel.is_user_mode_linux
    _program(tmp_path / "linux", _elf(text=text + b"CONFIG_UML_NET_VECTOR=y\n\0CONFIG_UML=y\n"))
    os.utime(tmp_path / "linux", (1, 1))
    assert kernel.transports == {"daemon", "fd"}
    assert kernel.is_user_mode_linux


@needs("busybox", "ldd")
def test_a_static_program_has_no_libraries(tmp_path: Path) -> None:
    link = tmp_path / "kernel"
    found = subprocess.run(["sh", "-c", "command -v busybox"], capture_output=True, text=True, check=True)
    link.symlink_to(found.stdout.strip())
    kernel = find_kernel(str(link))
    assert kernel.path == os.path.realpath(link)
    assert kernel.libraries == ()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "good"), [(1, False), (2, True), (3, True), (4, False), (0x200, False)])
@needs("ldd")
def test_only_executables_of_either_byte_order(tmp_path: Path, kind: int, good: bool, order: str) -> None:
    path = _program(tmp_path / "linux", _elf(kind, order=order))
    if good:
        assert find_kernel(path).path == path
        return
    with pytest.raises(DataError, match=r"not a UML kernel .* expected an ELF executable") as refused:
        find_kernel(path)
    assert "apt-get install user-mode-linux" in str(refused.value.hint)


@pytest.mark.parametrize("contents", [b"", b"#!/bin/sh\nexec linux\n", b"\x7fELF", _elf()[:17]])
def test_what_is_no_elf_file(tmp_path: Path, contents: bytes) -> None:
    with pytest.raises(DataError, match="expected an ELF executable"):
        find_kernel(_program(tmp_path / "linux", contents))


def test_what_cannot_be_run(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(_elf())
    plain.chmod(0o644)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (plain, tmp_path, tmp_path / "none", loop):
        with pytest.raises(NoInputError) as refused:
            find_kernel(str(path))
        assert "apt-get install user-mode-linux" in str(refused.value.hint)


def test_a_program_that_is_not_installed() -> None:
    with pytest.raises(NoInputError, match="umldisk-no-such-kernel is not installed") as refused:
        find_kernel("umldisk-no-such-kernel")
    assert refused.value.hint == "apt-get install user-mode-linux"


def test_a_kernel_that_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umldisk.guest.kernel._libraries", lambda _path: ())
    path = _program(tmp_path / "linux", _elf())
    kernel = find_kernel(path)
    os.unlink(path)
    with pytest.raises(NoInputError, match="cannot open the kernel"):
        _ = kernel.transports


def test_a_library_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = tmp_path / "bin"
    peers.mkdir()
    _program(
        peers / "ldd", b"#!/bin/sh\necho '\tlibc.so.6 => /lib/libc.so.6 (0x00007f)'\necho '\tlibx.so.1 => not found'\n"
    )
    monkeypatch.setenv("PATH", f"{peers}:{os.environ['PATH']}")
    with pytest.raises(DataError, match=r"misses a library .* found no libx\.so\.1"):
        find_kernel(_program(tmp_path / "linux", _elf()))
