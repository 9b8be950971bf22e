import numpy as np

from tracer.store.layout import plan
from tracer.store.memory import Recycled


def address(values):
    return values.__array_interface__["data"][0]


def test_memory_comes_back_only_when_the_last_view_is_gone():
    recycled = Recycled(smallest=1000)
    first = recycled.take(4000)
    place, view = address(first), first.view(np.float32).reshape(10, 100)[3:]
    del first
    other = recycled.take(4000)
    assert address(other) != place
    view[:] = 7.0
    other[:] = 0
    assert (view == 7.0).all()
    del view
    assert address(recycled.take(3000)) == place


def test_memory_far_too_large_stays_for_others():
    recycled = Recycled(smallest=1000)
    place = address(recycled.take(9000))
    small = recycled.take(2000)
    assert address(small) != place and len(small) == 2000
    assert address(recycled.take(5000)) == place


def test_no_more_than_the_limit_is_kept():
    recycled = Recycled(smallest=1000, limit=10_000)
    arrays = [recycled.take(4000) for _ in range(5)]
    del arrays
    assert sum(memory.nbytes for memory in recycled._free) == 8000


def test_what_is_small_is_left_to_the_c_library():
    recycled = Recycled(smallest=1000)
    recycled.take(999)
    assert recycled._free == []


def test_large_values_read_twice_stay_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("tracer.store.layout.RECYCLED", Recycled(smallest=1000))
    layout = plan((1, 3_000_001), np.dtype("float32"))
    assert layout.pieces
    kept = []
    for number in range(3):
        values = np.random.default_rng(number).standard_normal(layout.shape, np.float32)
        file = tmp_path / str(number)
        with file.open("wb") as opened:
            layout.write(opened.fileno(), values.reshape(-1).view(np.uint8))
        with file.open("rb") as opened:
            kept.append((values, layout.read(opened.fileno())))
            assert (layout.read(opened.fileno()) == values).all()  # read, and gone
    for values, read in kept:
        assert read.flags.writeable and (read == values).all()
