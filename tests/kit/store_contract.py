"""What every store promises, as tests: a module for one kind of store derives its class from `StoreContract`.

Its fixture `home` gives a fresh place where stores can be; a store is opened there by its location alone, also by
child processes, so whatever else is needed has to be in the environment.
"""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from umldisk.checkpoint.index import name_of
from umldisk.checkpoint.store import Listed, Store, aside_key, base_key, chunk_key, chunk_name, index_key, record_key
from umldisk.checkpoint.stores import open_store
from umldisk.errors import BusyError, NoInputError, UsageError

ROOT = Path(__file__).parents[2]
_CHILD_SECONDS = 60


@dataclass
class Home:
    """Where stores of one kind can be; every location that it gives is new."""

    above: str
    locations: list[str] = field(default_factory=list)

    def new(self) -> str:
        """Return a location where no store is yet."""
        self.locations.append(f"{self.above}/{len(self.locations)}")
        return self.locations[-1]


def chunk(number: int, size: int = 300) -> tuple[str, bytes]:
    """Return the key and contents of a chunk."""
    data = number.to_bytes(4, "little") * (size // 4)
    return chunk_key(name_of(data)), data


@contextlib.contextmanager
def child(script: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a script that prints a line when it is ready; it is killed at the end of the block."""
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


HOLDING = """
import sys
from umldisk.checkpoint.stores import open_store
location, how = sys.argv[1:]
store = open_store(location)
with store.collecting() if how == "collecting" else store.writing(how):
    print("ready", flush=True)
    sys.stdin.readline()
"""

ADDING = """
import sys
from tests.kit.store_contract import chunk
from umldisk.checkpoint.store import record_key
from umldisk.checkpoint.stores import open_store
location, guest = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
store = open_store(location)
for number in range(1, 4):
    with store.writing(guest, wait_seconds=30):
        for one in range(number * 10, number * 10 + 15):
            store.put(*chunk(one))
        store.flush()
        store.put_new(record_key(guest, number), guest.encode())
"""

_ASIDE = aside_key(bytes(32))
_KEYS = [*(chunk(n)[0] for n in range(4)), _ASIDE, record_key("a", 1), record_key("a-b", 1), index_key("a", 1)]
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put_new", "delete", "get", "exists", "list", "flush", "open"]),
        st.sampled_from(_KEYS),
        st.binary(max_size=4),
    ),
    max_size=25,
)


class StoreContract:
    """The tests; they ask for `home`, and `examples` says how many the slow ones may take."""

    examples = 60

    @pytest.fixture
    def location(self, home: Home) -> str:
        return home.new()

    @pytest.fixture
    def store(self, location: str) -> Store:
        return open_store(location)

    def test_what_was_put_is_there_for_others_after_flush(self, store: Store, location: str) -> None:
        key, data = chunk(1)
        with store.writing("web"):
            assert not store.exists(key)
            store.put(key, data)
            assert store.exists(key)
            assert store.get(key) == data
            store.flush()
            assert store.exists(key)
        other = open_store(location)
        assert other.get(key) == data
        assert [*other.list("")] == [Listed(key, len(data))]

    def test_an_empty_store_has_nothing(self, store: Store) -> None:
        key, _data = chunk(1)
        assert not store.exists(key)
        assert [*store.list("")] == []
        store.flush()
        store.delete([key])
        with pytest.raises(NoInputError, match="no such"):
            store.get(key)

    def test_a_chunk_can_be_put_again(self, store: Store) -> None:
        key, data = chunk(1)
        for _again in range(3):
            store.put(key, data)
            store.put(key, data)
            store.flush()
        assert store.get(key) == data

    def test_a_chunk_that_is_set_aside_leaves_its_place(self, store: Store, location: str) -> None:
        for number in (1, 2):
            store.put(chunk(number)[0], b"bad")
        store.flush()
        name = chunk_name(chunk(1)[0])
        assert name
        with store.collecting():
            assert store.set_aside(name) == aside_key(name)
            with pytest.raises(NoInputError):
                store.set_aside(name)
        other = open_store(location)
        assert [one.key for one in other.list("")] == [chunk(2)[0], aside_key(name)]
        assert other.get(aside_key(name)) == b"bad"
        assert not store.exists(chunk(1)[0])
        store.put(*chunk(1))
        store.flush()
        assert other.get(chunk(1)[0]) == chunk(1)[1]

    def test_an_index_is_replaced_at_once(self, store: Store, location: str) -> None:
        key = base_key("web", "var")
        for data in (b"first, and longer", b"second", b""):
            store.put(key, data)
            assert open_store(location).get(key) == data

    def test_a_record_never_changes(self, store: Store, location: str) -> None:
        key = record_key("web", 1)
        store.put_new(key, b"one")
        store.put_new(key, b"one")
        with pytest.raises(BusyError, match="somebody else"):
            open_store(location).put_new(key, b"two")
        assert store.get(key) == b"one"

    def test_lists_by_any_prefix_in_order(self, store: Store) -> None:
        keys = sorted([*(chunk(n)[0] for n in range(40)), record_key("a", 1), record_key("a-b", 1), index_key("a", 2)])
        for key in reversed(keys):
            store.put(key, key.encode())
        store.flush()
        first = keys[0]
        for prefix in ("", "c", "chunks", "chunks/", first[:9], first[:11], first[:14], first, "guests/a", "guests/a/"):
            found = [*store.list(prefix)]
            assert found == [Listed(key, len(key)) for key in keys if key.startswith(prefix)], prefix
        assert [*store.list("elsewhere/")] == []

    def test_deletes_what_is_there(self, store: Store) -> None:
        keys = [chunk(n)[0] for n in range(6)]
        for number in range(6):
            store.put(*chunk(number))
        store.put(index_key("web", 1), b"index")
        store.flush()
        with store.collecting():
            store.delete(iter([index_key("web", 1), *keys[:4], keys[0], chunk(99)[0]]))
        assert [one.key for one in store.list("")] == sorted(keys[4:])
        assert [store.exists(key) for key in keys] == [False] * 4 + [True] * 2
        store.put(*chunk(0))
        store.flush()
        assert store.get(keys[0]) == chunk(0)[1]

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "x",
            "/etc/passwd",
            "guests/../x.json",
            "guests/web/../../x.json",
            "guests/web/.x.json",
            "guests/web/x",
            "guests//x.json",
            "chunks/0000/x.cacnk",
            f"chunks/0000/{'1' * 64}.cacnk",
            "guests/w\0b/1.json",
        ],
    )
    def test_other_keys_are_refused(self, store: Store, key: str) -> None:
        acts: list[Callable[[], object]] = [
            lambda: store.get(key),
            lambda: store.exists(key),
            lambda: store.put(key, b""),
            lambda: store.put_new(key, b""),
            lambda: store.delete([key]),
        ]
        for act in acts:
            with pytest.raises(UsageError, match="not a key"):
                act()
        assert [*store.list("")] == []

    def test_behaves_like_a_dict(self, home: Home) -> None:
        run = given(_STEPS)(lambda steps: _compare_with_dict(home.new(), steps))
        quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
        settings(max_examples=self.examples, deadline=None, suppress_health_check=quiet)(run)()

    def test_many_threads_add_at_once(self, store: Store, location: str) -> None:
        chunks = [chunk(n, 4000) for n in range(60)] * 2
        with store.writing("web"), ThreadPoolExecutor(8) as pool:
            flushes = [pool.submit(store.flush) for _ in range(4)]
            for _done in pool.map(lambda one: store.put(*one), chunks):
                pass
            for flush in flushes:
                flush.result()
            store.flush()
        other = open_store(location)
        assert [one.key for one in other.list("chunks/")] == sorted({key for key, _data in chunks})
        assert all(other.get(key) == data for key, data in chunks[:60])

    def test_several_processes_add_at_once(self, store: Store, location: str) -> None:
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(child(ADDING, location, guest)) for guest in ("a", "b", "c", "a2")]
            for writer in writers:
                assert writer.stdin
                writer.stdin.write("\n")
                writer.stdin.flush()
            assert [writer.wait(_CHILD_SECONDS) for writer in writers] == [0] * 4
        records = {record_key(guest, number): guest.encode() for guest in ("a", "b", "c", "a2") for number in (1, 2, 3)}
        chunks = dict(chunk(n) for n in range(10, 45))
        assert {one.key: store.get(one.key) for one in store.list("")} == records | chunks

    # -- holding --------------------------------------------------------------------------------------------------

    def test_two_guests_are_written_at_once_but_not_one(self, store: Store, location: str) -> None:
        other = open_store(location)
        with store.writing("a"):
            with other.writing("b"):
                pass
            with pytest.raises(BusyError), other.writing("a"):
                pass
        with other.writing("a"):
            pass

    @pytest.mark.parametrize(("there", "here"), [("a", "collecting"), ("collecting", "a"), ("a", "a")])
    def test_the_busy_process_is_named(self, store: Store, location: str, there: str, here: str) -> None:
        with child(HOLDING, location, there) as holder:
            with pytest.raises(BusyError, match=f"by PID {holder.pid}") as caught, _held(store, here):
                pass
            assert caught.value.pid == holder.pid
            assert caught.value.hint
            holder.kill()
            holder.wait()
            with _held(store, here):
                pass

    def test_waits_until_the_other_is_done(self, store: Store, location: str) -> None:
        with child(HOLDING, location, "collecting") as holder:
            assert holder.stdin
            began = time.monotonic()
            threading.Timer(0.7, holder.stdin.close).start()
            with store.writing("a", wait_seconds=60):
                assert time.monotonic() - began > 0.5

    def test_a_failure_inside_gives_the_store_back(self, store: Store, location: str) -> None:
        def fail() -> None:
            with store.collecting():
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            fail()
        with open_store(location).writing("a"):
            pass


def _held(store: Store, how: str) -> contextlib.AbstractContextManager[None]:
    return store.collecting() if how == "collecting" else store.writing(how)


def _compare_with_dict(location: str, steps: list[tuple[str, str, bytes]]) -> None:
    """Do the same with a store and with a dict; a chunk's contents are what its name says, as everywhere."""
    contents = dict(chunk(n) for n in range(4))
    store, model = open_store(location), dict[str, bytes]()
    for act, key, given_data in steps:
        data = contents.get(key, given_data)
        if act == "put":
            store.put(key, data)
            model[key] = data
        elif act == "put_new" and model.get(key, data) == data:
            store.put_new(key, data)
            model[key] = data
        elif act == "put_new":
            with pytest.raises(BusyError):
                store.put_new(key, data)
        elif act == "delete":
            store.flush()
            store.delete([key])
            model.pop(key, None)
        elif act == "exists":
            assert store.exists(key) == (key in model)
        elif act == "get" and key in model:
            assert store.get(key) == model[key]
        elif act == "get":
            with pytest.raises(NoInputError):
                store.get(key)
        elif act == "list":
            store.flush()
            assert [*store.list("")] == [Listed(name, len(model[name])) for name in sorted(model)]
        else:
            store.flush()
            store = open_store(location) if act == "open" else store
