"""Every call that changes or reads a file fails once: one error line, nothing lost, and the command completes later.

Most of this happens inside the test's own process, where calls can also write half of what they were asked. A few
commands run as processes of their own, with errors that strace injects.
"""

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit import model
from tests.kit.faults import READING_CALLS, WRITING_CALLS, Died, Way, failing, injection, own_cache, umldisk
from tests.kit.peers import needs
from tests.reliability.arguments import ERROR
from tests.reliability.scenes import SCENES, VIEW, Scene, findings_of, fingerprints, run

every_scene = pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)

STORAGE = 74


@pytest.fixture
def directory(memory: Path) -> Path:
    """Return a directory that is not there yet."""
    return memory / "scene"


def attempts(scene: Scene, directory: Path) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Give fresh files for each attempt, numbered from 0; whoever asks stops when no fault struck any more."""
    for number in range(1000):
        scene.prepare_again(directory)
        yield number, fingerprints(directory)


def check_survived(scene: Scene, directory: Path, before: dict[str, bytes], what: str) -> None:
    try:
        scene.check_between(directory, before)
        scene.run_again(directory)
    except AssertionError as error:
        error.add_note(what)
        raise


def run_with_fault(
    scene: Scene, directory: Path, after: int, way: Way, *, error: int = errno.EIO, calls: tuple[str, ...]
) -> tuple[str | None, int, str]:
    """Run the command; return the call that failed, the exit code and what was said."""
    with failing(after, way, error=error, calls=calls) as tally:
        code, _out, said = run(scene.command(directory))
    return tally.struck, code, said


@every_scene
@pytest.mark.parametrize(
    ("way", "error"),
    [(Way.RAISE, errno.EIO), (Way.TORN, errno.ENOSPC), (Way.FULL, errno.ENOSPC)],
    ids=["one-fails", "half-written", "full-from-then-on"],
)
def test_a_failing_write_is_exit_74_and_the_same_command_completes_later(
    scene: Scene, way: Way, error: int, directory: Path
) -> None:
    for after, before in attempts(scene, directory):
        struck, code, said = run_with_fault(scene, directory, after, way, error=error, calls=WRITING_CALLS)
        if struck is None:
            break
        what = f"{struck}, call {after}, failed: {code} {said}"
        assert code == STORAGE, what
        assert ERROR.fullmatch(said), what
        assert os.strerror(error) in said, what
        check_survived(scene, directory, before, what)
    assert code == 0
    assert after >= 5
    scene.check_done(directory)


@every_scene
def test_a_short_write_is_no_error_and_is_carried_on(scene: Scene, directory: Path) -> None:
    for after, _before in attempts(scene, directory):
        struck, code, said = run_with_fault(scene, directory, after, Way.SHORT, calls=WRITING_CALLS)
        assert (code, said) == (0, ""), f"{struck}, call {after}, was short"
        scene.check_done(directory)
        if struck is None:
            break


@every_scene
def test_dead_in_the_middle_of_a_write_the_same_command_completes_later(scene: Scene, directory: Path) -> None:
    for after, before in attempts(scene, directory):
        with failing(after, Way.DEAD) as tally:
            try:
                run(scene.command(directory))
            except Died:
                assert tally.struck
        if tally.struck is None:
            break
        check_survived(scene, directory, before, f"died in {tally.struck}, call {after}")
    scene.check_done(directory)


@pytest.mark.parametrize("scene", [scene for scene in SCENES if scene.changes], ids=lambda scene: scene.name)
def test_dead_again_while_it_was_being_completed(scene: Scene, directory: Path) -> None:
    firsts = range(2, 60, 7)
    for first in firsts:
        for second, before in attempts(scene, directory):
            for after in (first, second * 3):
                with failing(after, Way.DEAD) as tally:
                    try:
                        run(scene.command(directory))
                    except Died:
                        assert tally.struck
            if tally.struck is None:
                break
            check_survived(scene, directory, before, f"died in call {first} and then in call {second * 3}")


@every_scene
@pytest.mark.parametrize("way", [Way.RAISE, Way.TORN], ids=["one-fails", "half-read"])
def test_a_failing_read_is_exit_74_and_the_same_command_completes_later(
    scene: Scene, way: Way, directory: Path
) -> None:
    for after, before in attempts(scene, directory):
        struck, code, said = run_with_fault(scene, directory, after, way, calls=READING_CALLS)
        if struck is None:
            break
        what = f"{struck}, call {after}, failed: {code} {said}"
        if code == 0:  # it was a file that matters to nobody, beside the others
            scene.check_done(directory)
            continue
        assert code == STORAGE, what
        assert ERROR.fullmatch(said), what
        check_survived(scene, directory, before, what)
    assert code == 0
    assert after >= 1


@every_scene
def test_a_short_read_is_no_end_of_the_file(scene: Scene, directory: Path) -> None:
    """Where a block in the middle cannot be read, the kernel first gives what is before it."""
    for after, _before in attempts(scene, directory):
        struck, code, said = run_with_fault(scene, directory, after, Way.SHORT, calls=("pread", "preadv"))
        assert (code, said) == (0, ""), f"{struck}, call {after}, was short"
        scene.check_done(directory)
        if struck is None:
            break


def half_merged(directory: Path) -> None:
    """Leave a merge that keeps the sibling as if killed while it changed the backing file."""
    scene = next(scene for scene in SCENES if scene.name == "merge-keep")
    scene.prepare(directory)
    with failing(None) as tally:
        run(scene.command(directory))
    after = tally.calls.index("rename") + 2  # the journal is there, its directory synced
    scene.prepare_again(directory)
    with failing(after, Way.DEAD), contextlib.suppress(Died):
        run(scene.command(directory))
    assert "unfinished-merge" in findings_of(directory / "cow")
    assert "sibling" in (directory / "base.umldisk-journal").read_text()


def put_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


REPLACEMENTS: dict[str, Callable[[Path], object]] = {
    "nothing": os.unlink,
    "another-file": lambda sibling: sibling.write_bytes(b"no COW file any more"),
    "directory": put_directory,
    "cow-of-another": lambda sibling: model.write_cow(sibling, sibling.with_name("other"), {3: b"new" * 200}),
}


@pytest.mark.parametrize("what", REPLACEMENTS)
def test_a_sibling_that_was_replaced_meanwhile_is_left_alone(what: str, directory: Path) -> None:
    half_merged(directory)
    sibling = directory / "sibling"
    REPLACEMENTS[what](sibling)
    before = sibling.read_bytes() if sibling.is_file() else None
    code, _out, said = run(["merge", "-d", str(directory / "cow")])
    assert code == 0, said
    assert (directory / "base").read_bytes() == VIEW
    assert before == (sibling.read_bytes() if sibling.is_file() else None)
    assert not list(directory.glob("*journal"))


def test_a_half_merged_backing_file_is_nobodys_input(directory: Path) -> None:
    half_merged(directory)
    before = fingerprints(directory)
    for words in (
        ["create", "@new", "@base"],
        ["diff", "@base", "@other", "@new"],
        ["diff", "@other", "@base", "@new"],
        ["merge", "@sibling", "@new"],
        ["merge", "-d", "@sibling"],
        ["align", "@cow"],
        ["rebase", "@cow", "@other"],
        ["rebase", "-u", "@cow", "@copy"],
        ["rebase", "-u", "@sibling", "@base"],
        ["merge", "--ignore-mtime", "@sibling", "@new"],
    ):
        code, _out, said = run([str(directory / word[1:]) if word[0] == "@" else word for word in words])
        assert code == 65, f"{words}: {said}"
        assert f"umldisk merge -d {directory / 'cow'}" in said
        assert fingerprints(directory) == before
    code, _out, said = run(["merge", str(directory / "cow"), str(directory / "new")])
    assert code == 0, said
    assert (directory / "new").read_bytes() == VIEW


# -- the order of things, which only a power cut would show ---------------------------------------


def order_of(scene: Scene, directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Run a command; return its writes, syncs, renames and removals, each with the file's name."""
    done: list[tuple[str, str]] = []

    def recorded(name: str) -> None:
        real = getattr(os, name)

        def stand_in(*arguments: object, **options: object) -> object:
            first = arguments[1 if name == "rename" else 0]
            path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(first)
            done.append((name, os.path.basename(path)))
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, stand_in)

    for name in ("pwrite", "fsync", "rename", "unlink", "copy_file_range", "utime"):
        recorded(name)
    scene.prepare(directory)
    done.clear()
    code, _out, said = run(scene.command(directory))
    monkeypatch.undo()
    assert code == 0, said
    return done


def check_guarded(order: list[tuple[str, str]], file: str) -> None:
    """Every write to a file lies between the durable appearance of a journal and its removal, and is synced before."""
    touches = [at for at, (call, name) in enumerate(order) if name == file and call in ("pwrite", "utime")]
    first, last = touches[0], touches[-1]
    begun = max(at for at, step in enumerate(order[:first]) if step[0] == "rename" and step[1].endswith("journal"))
    ended = min(
        at for at, step in enumerate(order) if at > last and step[0] == "unlink" and step[1].endswith("journal")
    )
    assert ("fsync", "scene") in order[begun:first]
    assert ("fsync", file) in order[last:ended]


@pytest.mark.parametrize("name", ["merge-in-place", "merge-keep-reset", "rename"])
def test_what_is_changed_in_place_is_changed_under_a_durable_journal(
    name: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = next(scene for scene in SCENES if scene.name == name)
    order = order_of(scene, directory, monkeypatch)
    check_guarded(order, "cow" if name == "rename" else "base")


@pytest.mark.parametrize("name", ["align", "rebase"])
def test_data_is_durable_before_the_bits_that_declare_it(
    name: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = next(scene for scene in SCENES if scene.name == name)
    steps = [call for call, file in order_of(scene, directory, monkeypatch) if file == "cow"]
    text = " ".join(steps)
    assert re.match(r"(pwrite )+fsync pwrite fsync( pwrite fsync)?$", text), text


@pytest.mark.parametrize("name", ["merge", "merge-force", "create", "diff", "merge-reset"])
def test_a_new_file_is_durable_before_it_gets_its_name(
    name: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = next(scene for scene in SCENES if scene.name == name)
    calls = [call for call, _file in order_of(scene, directory, monkeypatch)]
    last_write = max(at for at, call in enumerate(calls) if call in ("pwrite", "copy_file_range"))
    assert calls[last_write + 1] == "fsync"
    assert calls.count("fsync") >= 2


# -- real processes -------------------------------------------------------------------------------

IN_PROCESSES = [scene for scene in SCENES if scene.name in ("merge", "merge-reset", "rebase", "diff")]


@needs("strace")
@pytest.mark.parametrize("scene", IN_PROCESSES, ids=lambda scene: scene.name)
def test_an_injected_error_is_exit_74_with_one_error_line(
    scene: Scene, tmp_path: Path, bare_environment: dict[str, str]
) -> None:
    directory = tmp_path / "scene"
    environment = own_cache(bare_environment, tmp_path / "compiled")
    for call in scene.calls(directory, environment):
        scene.prepare_again(directory)
        before = fingerprints(directory)
        prefix = injection(call, "error=ENOSPC")
        done = umldisk(*scene.command(directory), environment=environment, prefix=prefix)
        assert done.returncode == STORAGE, f"{call}: {done.stderr}"
        assert ERROR.fullmatch(done.stderr), f"{call}: {done.stderr}"
        check_survived(scene, directory, before, f"{call} failed")
