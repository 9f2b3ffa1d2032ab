"""`umldisk build` in odd sites: wrong settings, things in the way, odd and long paths, no permission."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.kit.peers import needs
from tests.reliability.yard import USER_ID, Yard
from umldisk.config.guest import Guest, boot_argv
from umldisk.image.drives import DRIVES

pytestmark = [needs("mke2fs", "debugfs", "e2fsck", "busybox"), pytest.mark.slow]

USAGE, DATA, NO_INPUT, CANNOT_CREATE = 2, 65, 66, 73
SET = {*(drive.file_name for drive in DRIVES), "manifest.json", ".lock"}


WRONG = """\
[guest.x]
bse = "busybox"
base = 3
[gest]
[guest.x.drives.root]
size = "1"
[guest."a b"]
"""


def test_everything_that_is_wrong_with_the_settings_is_said_at_once(yard: Yard) -> None:
    config = yard.site / "umldisk.toml"
    config.write_text(WRONG)
    before = yard.snapshot()
    for words in (("x",), ("--dry-run", "x"), ("--force", "x"), ("canary",)):
        done = yard.build(*words)
        assert (done.returncode, done.stdout) == (DATA, "")
        lines = done.stderr.splitlines()
        assert [line.split(":")[3].strip() for line in lines] == ["2", "3", "4", "6", "7"]
        assert all(line.startswith(f"umldisk: error: {config}:") for line in lines)
    assert yard.snapshot() == before


def test_a_umldisk_toml_that_is_no_text(yard: Yard) -> None:
    config = yard.site / "umldisk.toml"
    for contents in (b"\xff\xfe", b"[[[" * 50_000, b"x" * 20_000, b"\0"):
        config.write_bytes(contents)
        yard.refused(DATA, r"umldisk\.toml:1", "--dry-run")
    config.unlink()
    config.mkdir()
    yard.refused(NO_INPUT, "not a regular file")
    config.rmdir()
    os.mkfifo(config)
    yard.refused(NO_INPUT, "not a regular file")
    config.unlink()
    config.symlink_to("nowhere")
    yard.refused(NO_INPUT, "cannot open")


def _in_the_way(yard: Yard, guest: str) -> None:
    for words in ((), ("--force",), ("--dry-run",)):
        yard.refused(CANNOT_CREATE, "cannot (create|open the directory)", *words, guest=guest)


def test_what_stands_where_a_guest_should_be(yard: Yard) -> None:
    yard.guest("file").write_text("x")
    yard.guest("dangling").symlink_to("../elsewhere")
    yard.guest("circle").symlink_to("circle")
    yard.guest("to-file").symlink_to("../../canary")
    for guest in ("file", "dangling", "circle", "to-file"):
        _in_the_way(yard, guest)
    before = yard.snapshot()
    for site in (yard.top / "canary", yard.top / "canary" / "below"):
        for words in (("x",), ("--dry-run", "x")):
            done = yard.build(*words, site=site)
            assert (done.returncode, done.stdout) == (CANNOT_CREATE, ""), done.stderr
    assert yard.snapshot() == before


def test_a_guest_may_live_behind_a_symlink(yard: Yard) -> None:
    (yard.top / "elsewhere").mkdir()
    yard.guest("x").symlink_to("../../elsewhere")
    done = yard.build("x")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(os.listdir(yard.top / "elsewhere")) == SET
    assert (yard.top / "canary").read_text() == "untouched"


def test_disks_that_are_something_else_are_replaced_never_followed(yard: Yard) -> None:
    directory = yard.guest("x")
    directory.mkdir()
    (directory / "root_fs").symlink_to("../../../canary")
    (directory / "var_fs").symlink_to("nowhere")
    (directory / "tmp_fs").symlink_to("/dev/zero")
    os.mkfifo(directory / "swap_fs")
    (directory / "manifest.json").symlink_to("../../../canary")
    for scratch in (".building", ".verifying", ".ready", ".complete", ".retiring"):
        (directory / scratch).symlink_to("../../../tmp")
    yard.refused(CANNOT_CREATE, r"has disks already.*\nhint: .*--force")
    yard.refused(DATA, "the manifest cannot be read", "--check")
    yard.built()
    assert all(stat.S_ISREG((directory / name).lstat().st_mode) for name in SET)
    assert set(os.listdir(directory)) == SET


@pytest.mark.parametrize("kind", ["symlink", "directory"])
def test_a_lock_that_is_none_is_refused(kind: str, yard: Yard) -> None:
    lock = yard.guest("x") / ".lock"
    lock.parent.mkdir()
    if kind == "symlink":
        lock.symlink_to("../../../canary")
    else:
        lock.mkdir()
    yard.refused(CANNOT_CREATE, "cannot create")


@needs("root")
def test_a_site_that_a_user_may_not_write(yard: Yard, memory: Path) -> None:
    memory.chmod(0o711)
    os.chown(yard.temporary, USER_ID, USER_ID)
    for mode in (0o555, 0o700):
        yard.guest("x").parent.chmod(mode)
        for words in ((), ("--dry-run",), ("--force",)):
            yard.refused(CANNOT_CREATE, "Permission denied|cannot be written", *words, as_user=True)
    yard.guest("x").parent.chmod(0o555)
    yard.guest("x").mkdir()
    os.chown(yard.guest("x"), USER_ID, USER_ID)
    for option in ("--force", "--dry-run"):
        yard.refused(USAGE, r"only root can make a user .x.\nhint: ", "--create-user", option, as_user=True)


@needs("tmpfs")
def test_a_site_that_is_mounted_read_only(yard: Yard, memory: Path) -> None:
    (memory / "mounted").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M,ro", "umldisk-test", memory / "mounted"], check=True)
    try:
        for words in (("x",), ("--dry-run", "x")):
            done = yard.build(*words, site=memory / "mounted")
            assert (done.returncode, done.stdout) == (CANNOT_CREATE, ""), done.stderr
            assert len(done.stderr.splitlines()) == 1
    finally:
        subprocess.run(["umount", memory / "mounted"], check=True)


@pytest.mark.parametrize("name", ["a b", "a,b", "a:b", 'a"b', "a\nb", "a\tb", "à"])
def test_a_path_that_uml_could_not_read_is_refused(name: str, yard: Yard) -> None:
    for words in ((), ("--dry-run",)):
        yard.refused(DATA, r"UML's ubd option.*\nhint: .*--site", *words, site=yard.site / name)


@pytest.mark.parametrize("name", ["ü", "ж", "a'b", "a\\b", "$(x)", "a=b#c", "x\udcff", "-x"])
def test_other_odd_paths_are_fine(name: str, yard: Yard) -> None:
    site = yard.top / name
    done = yard.build("--json", "x", site=site)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(os.listdir(site / "guests/x")) == SET
    assert json.loads(done.stdout)["directory"].startswith(f"{yard.top}/")


def _long_site(top: Path, length: int) -> Path:
    """Return a directory so that a guest's below it has a path of this length."""
    site = str(top)
    missing = length - len("/guests/x") - len(site)
    while missing > 200:
        site += "/" + "n" * 99
        missing -= 100
    return Path(site + "/" + "n" * (missing - 1))


def test_a_path_too_long_for_umls_command_line_is_refused(yard: Yard) -> None:
    top = yard.top / "long"
    longest = next(n for n in range(600, 300, -1) if _fits(_long_site(top, n)))
    yard.refused(DATA, r"too long for UML's command line.*\nhint: .*--site", site=_long_site(top, longest + 1))
    site = _long_site(top, longest)
    done = yard.build("-q", "x", site=site)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(os.listdir(site / "guests/x")) == SET


def _fits(site: Path) -> bool:
    try:
        return bool(boot_argv(Guest("x", str(site / "guests/x"))))
    except Exception:  # noqa: BLE001  (whatever it is, the build says it)
        return False


@pytest.mark.parametrize("component", ["n" * 300, "n/" * 2500])
def test_a_site_that_no_file_system_takes(component: str, yard: Yard) -> None:
    done = yard.build("x", site=f"{yard.top}/{component}")
    assert done.returncode in (CANNOT_CREATE, DATA)
    assert done.stderr.startswith("umldisk: error: ")


def test_names_of_guests(yard: Yard) -> None:
    for name in ("x" * 63, "A", "a"):
        assert yard.build("-q", name).returncode == 0
    for name in ("x" * 64, "..", "a/b", "é", "a\n", "x-"):
        done = yard.build("--", name)
        assert (done.returncode, done.stdout) == (USAGE, ""), name
        assert done.stderr.startswith("umldisk: error: not a name for a guest")
    assert sorted(os.listdir(yard.site / "guests")) == ["A", "a", "canary", "x" * 63]
    yard.require_whole("a")
    yard.require_whole("A")
