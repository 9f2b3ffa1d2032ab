"""`umldisk changes` on guests and evidence: what is held against what, and what is said of it.

The guest is built and never booted; what it did is done to its disks by debugfs.
"""

import contextlib
import fcntl
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.extimage import debugfs, open_volume
from tests.kit.peers import needs
from tests.kit.sites import NAME, BuiltSite, Said
from umldisk.system.files import open_disk

pytestmark = needs("mke2fs", "debugfs", "e2fsck", "busybox")

_LOG = "log/access.log"


@pytest.fixture
def site(tmp_path: Path) -> BuiltSite:
    return BuiltSite(tmp_path).build()


def _changed(site: BuiltSite, drive: str, *requests: str) -> None:
    """Let the guest have changed a drive, through its COW file."""
    base, cow, image = (site.guest / f"{drive}_{name}" for name in ("fs", "cow", "image"))
    if cow.exists():
        site.good("merge", "-q", cow, image)
    else:
        image.write_bytes(base.read_bytes())
    debugfs(image, *requests, writable=True)
    site.good("diff", "-q", "--force", base, image, cow)
    image.unlink()


def _write(site: BuiltSite, path: str, text: str) -> str:
    """Return the request of debugfs that makes a file."""
    source = site.directory / f"source-{path.replace('/', '-')}"
    source.write_text(text)
    return f"write {source} {path}"


def _night(site: BuiltSite, *words: str) -> int:
    number = site.good("checkpoint", "take", "--json", *words, NAME).json["drives"][-1]["number"]
    assert isinstance(number, int)
    return number


def _break_in(site: BuiltSite) -> None:
    """Do to the disks what an intruder does."""
    with open_volume(site.guest / "root_fs") as volume:
        busybox = volume.inode(dict(volume.walk())["/bin/busybox"])
    other = ["rm bin/busybox", _write(site, "bin/busybox", "#!/bin/sh\n"), "sif bin/busybox mode 0100755"]
    time = f"sif bin/busybox mtime @{busybox.mtime_ns // 10**9}"
    _changed(site, "root", *other, time, "mkdir root/.ssh", _write(site, "root/.ssh/authorized_keys", "key\n"))
    _changed(site, "home", _write(site, "sh", "shell"), "sif sh mode 0104755", "sif / mtime @1000")
    _changed(site, "var", f"rm {_LOG}", "mkdir spool/cron", _write(site, "spool/cron/root", "* * * * *\n"))


_DONE = [
    ("privileges", "added", "/home/sh", ["setuid"]),
    ("programs", "changed", "/bin/busybox", ["time put back"]),
    ("ways in", "added", "/root/.ssh", []),
    ("ways in", "added", "/root/.ssh/authorized_keys", []),
    ("started", "added", "/var/spool/cron", []),
    ("started", "added", "/var/spool/cron/root", []),
    ("logs", "removed", "/var/log/access.log", []),
]


def _told(said: Said) -> list[tuple[str, str, str, list[str]]]:
    """Return what is said of files, directories whose time changed left out."""
    rows = said.json["changes"]
    return [(row["concern"], row["kind"], row["path"], row["marks"]) for row in rows if row["concern"] != "times"]


def _states(said: Said) -> dict[str, tuple[str, int | None]]:
    return {drive["name"]: (drive["state"], drive["checkpoint"]) for drive in said.json["drives"]}


def _recorded(site: BuiltSite) -> None:
    _changed(site, "var", _write(site, _LOG, "a day's log\n"))
    assert _night(site) == 1


def test_a_guest_is_as_it_was_built(site: BuiltSite) -> None:
    said = site.good("changes", NAME)
    assert (said.code, said.err) == (0, "")
    lines = ["blackdance: all files are as they should be", *(f"  {name:4}  as built" for name in _FILES)]
    assert said.out.splitlines() == lines
    assert site.good("changes", "--json", NAME).json["same"] is True
    assert site.good("changes", "-q", NAME).out == ""


_FILES = ("root", "var", "home", "tmp")


def test_all_that_an_intruder_did_is_named_worst_first(site: BuiltSite) -> None:
    _recorded(site)
    assert site("changes", NAME).code == 0
    _break_in(site)
    said = site("changes", "--json", NAME)
    assert said.code == 1
    assert _told(said) == _DONE
    assert _states(said) == {
        "root": ("changed", None),
        "var": ("changed", 1),
        "home": ("changed", None),
        "tmp": ("same", None),
    }
    (binary,) = (row for row in said.json["changes"] if row["path"] == "/bin/busybox")
    assert (binary["before"]["size"] > 1 << 20, binary["after"]["size"]) == (True, len("#!/bin/sh\n"))
    assert said.json["pause_seconds"] is None
    lines = site("changes", NAME).out.splitlines()
    assert "  added  home  /home/sh  file 4755 0:0, 5 B  [setuid]" in lines
    assert lines[-1] == "times: of 1 path only the time differs; --times lists them"
    assert site("changes", "--times", NAME).out.splitlines()[-1] == "  changed  home  /home  another time"
    only = site("changes", "--json", NAME, "home")
    assert _told(only) == _DONE[:1]
    assert _states(only).keys() == {"home"}


def test_evidence_tells_what_the_guest_told_before_it_was_restored(site: BuiltSite) -> None:
    _recorded(site)
    _break_in(site)
    before = site("changes", "--json", NAME).json
    report = site.good("restore", NAME).out
    assert site("changes", NAME).code == 0
    (kept,) = (site.directory / "evidence").iterdir()
    assert f"  umldisk changes {kept}" in report.splitlines()
    for name in (str(kept), kept.name):
        said = site("changes", "--json", name)
        assert (said.code, said.json["changes"], said.json["is_evidence"]) == (1, before["changes"], True)
        assert said.json["directory"] == str(kept)


def test_a_night_after_the_break_in_says_nothing_and_an_older_one_does(site: BuiltSite) -> None:
    _recorded(site)
    _break_in(site)
    assert _night(site) == 2
    on_var = [one for one in _DONE if one[2].startswith("/var")]
    assert _states(site("changes", "--json", NAME))["var"] == ("same", 2)
    since = site("changes", "--json", "--since", "1", NAME)
    assert _told(since) == _DONE
    assert _states(since) == {"root": ("changed", None), "var": ("changed", 1), "home": ("changed", None)} | {
        "tmp": ("same", None)
    }
    site.good("restore", NAME, "1")
    (kept,) = (site.directory / "evidence").iterdir()
    assert _told(site("changes", "--json", kept, "var")) == on_var  # it is known which night came back
    assert site("changes", kept, "var", "--since", "latest").code == 0


def test_evidence_that_was_changed_is_not_believed(site: BuiltSite) -> None:
    _recorded(site)
    _break_in(site)
    site.good("restore", NAME)
    (kept,) = (site.directory / "evidence").iterdir()
    _patch(kept / "home_cow", (kept / "home_cow").stat().st_size - 512, b"changed")
    _patch(site.guest / "root_fs", 4096 * 99, b"changed")
    said = site("changes", "--json", kept)
    assert said.code == 1
    reasons = {drive["name"]: (drive["state"], drive["reason"]) for drive in said.json["drives"]}
    for name in ("root", "home"):
        assert reasons[name][0] == "unreadable"
        assert "not the file that it was when the evidence was kept" in reasons[name][1]
    assert [one for one in _DONE if one[2].startswith("/var")] == _told(said)
    assert "  home  cannot be compared: not the file that it was" in site("changes", kept).out


def _patch(path: Path, offset: int, data: bytes) -> None:
    """Write where nobody looks, and put the time back."""
    status = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_base_that_was_changed_under_its_cow_file_is_told(site: BuiltSite) -> None:
    base = site.guest / "root_fs"
    status = base.stat()
    base.chmod(0o600)
    debugfs(base, _write(site, "bin/dropper", "x"), "sif bin/dropper mode 0104755", writable=True)
    os.utime(base, ns=(status.st_atime_ns, status.st_mtime_ns))
    said = site("changes", "--json", NAME)
    assert (said.code, _states(said)["root"]) == (1, ("base changed", None))
    assert _told(said) == [("privileges", "added", "/bin/dropper", ["setuid"])]
    text = site("changes", NAME).out
    assert "the base of drive root is not the one that was built" in text


def test_a_base_that_a_night_was_merged_into_is_what_that_night_recorded(site: BuiltSite) -> None:
    _changed(site, "root", _write(site, "etc/motd", "upgraded\n"))
    assert _told(site("changes", "--json", NAME)) == [("settings", "added", "/etc/motd", [])]
    site.good("checkpoint", "take", "-q", "--merge", NAME, "root")
    said = site("changes", "--json", NAME)
    assert (said.code, _states(said)["root"]) == (0, ("same", 1))
    _changed(site, "root", _write(site, "etc/issue", "hello\n"))
    assert _told(site("changes", "--json", NAME)) == [("settings", "added", "/etc/issue", [])]
    site.good("restore", "--drive", "home", NAME)
    assert site("changes", "--json", NAME, "home").code == 0


def test_a_drive_that_cannot_be_read_does_not_hide_the_others(site: BuiltSite) -> None:
    _changed(site, "home", "sif / mode 0100644")
    _changed(site, "root", _write(site, "etc/motd", "hello\n"))
    said = site("changes", "--json", NAME)
    assert said.code == 1
    assert _states(said)["home"] == ("unreadable", None)
    assert _told(said) == [("settings", "added", "/etc/motd", [])]


def test_names_of_files_do_nothing_to_the_terminal(site: BuiltSite) -> None:
    source = site.directory / "source"
    source.write_text("x")
    _changed(site, "home", f'write {source} "an\x1b[2Jescape"')
    assert "/home/an\\x1b[2Jescape" in site("changes", NAME).out
    assert [row[2] for row in _told(site("changes", "--json", NAME))] == ["/home/an\x1b[2Jescape"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nobody"], 66, "there is no such guest, nor evidence of that name"),
        (["./nobody"], 66, "there is no such directory of evidence"),
        ([NAME, "swap"], 2, "the guest has no such drive with files"),
        ([NAME, "--since", "9"], 66, "there is no checkpoint 9"),
        ([NAME, "--since", "latest"], 66, "there is no good checkpoint"),
        ([NAME, "--since", "the other day"], 2, "not the name of a checkpoint"),
        (["not a guest"], 2, "not a name for a guest"),
    ],
)
def test_what_cannot_be_compared(site: BuiltSite, words: list[str], code: int, message: str) -> None:
    said = site("changes", *words)
    assert (said.code, said.out) == (code, "")
    assert message in said.err


@pytest.mark.parametrize("text", ["", "[]", '{"format": 7}', '{"format": 1, "guest": 3}'])
def test_evidence_that_does_not_say_what_it_is(site: BuiltSite, text: str) -> None:
    kept = site.directory / "evidence" / "blackdance-1"
    kept.mkdir(parents=True)
    (kept / "evidence.json").write_text(text)
    said = site("changes", kept)
    assert said.code == 65
    assert "the evidence does not say what it is" in said.err


def test_evidence_of_older_versions_does_not_name_its_checkpoints(site: BuiltSite) -> None:
    _recorded(site)
    _break_in(site)
    site.good("restore", NAME)
    (kept,) = (site.directory / "evidence").iterdir()
    facts = json.loads((kept / "evidence.json").read_bytes())
    assert facts.pop("checkpoints") == {"var": 1}
    (kept / "evidence.json").chmod(0o600)
    (kept / "evidence.json").write_text(json.dumps(facts))
    assert _told(site("changes", "--json", kept)) == _DONE


def test_a_disk_that_somebody_writes_to_is_busy(site: BuiltSite) -> None:
    _changed(site, "home", _write(site, "note", "x"))
    with _locked(site.guest / "home_cow"):
        said = site("changes", NAME)
    assert (said.code, said.out) == (75, "")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock a file as a guest does that writes to it."""
    with open_disk(path, writable=True) as disk:
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(disk.fd, fcntl.F_OFD_SETLK, lock)
        yield
