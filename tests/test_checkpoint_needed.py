"""Which stored chunks are marked, against a set of names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.kit.memory_store import MemoryStore
from umldisk.checkpoint import needed
from umldisk.checkpoint.store import chunk_key

names = st.binary(min_size=1, max_size=1).map(lambda head: head * 8) | st.sampled_from([bytes(8), b"\xff" * 8])
full_names = st.tuples(names, st.binary(min_size=24, max_size=24)).map(b"".join)


@given(st.sets(full_names, max_size=30), st.sets(full_names, max_size=30), st.data())
def test_marks_are_those_of_a_set_or_of_names_that_begin_alike(
    present: set[bytes], others: set[bytes], data: st.DataObject
) -> None:
    store = MemoryStore({chunk_key(name): b"x" * 3 for name in present})
    chunks = needed.StoredChunks(store)
    assert (len(chunks), chunks.stored_bytes) == (len(present), 3 * len(present))
    wanted = data.draw(st.sets(st.sampled_from(sorted(present)))) if present else set()
    heads = {name[:8] for name in present}
    for name in wanted | others:
        assert chunks.mark(name) == (name[:8] in heads)
    alike = {name[:8] for name in wanted | others}
    marked = sorted(name for name in present if name[:8] in alike)
    assert [name for name, _size in chunks.marked()] == marked
    assert chunks.count_marked() == len(marked)
    for name in others - present:
        store.data[chunk_key(name)] = b"new"
    new = {name for name in others - present if name[:8] not in heads}
    left = {name for name, _size in chunks.unmarked()}
    assert left == {name for name in present | (others - present) if name[:8] in heads - alike}
    assert not left & new
    assert wanted.isdisjoint(left)
