"""Windows are views: what they hold, what they refuse, and what they cost."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from models.nn.windows import LabelledWindows, Windows
from nightcast.contracts.errors import ConfigError, TrainingError


def numbered(bars: int, features: int) -> np.ndarray:
    return np.arange(bars * features, dtype=np.float32).reshape(bars, features)


def test_a_window_holds_its_decision_bar_last_and_nothing_after_it() -> None:
    windows = Windows(numbered(6, 2), np.array([2, 5]), 3, limit=None)

    batch = windows.batch(np.array([1, 0])).numpy()

    assert batch.shape == (2, 3, 2)
    assert batch[0].tolist() == [[6, 7], [8, 9], [10, 11]]
    assert batch[1].tolist() == [[0, 1], [2, 3], [4, 5]]


def test_a_window_as_long_as_the_base_is_the_base() -> None:
    base = numbered(4, 3)

    assert np.array_equal(Windows(base, np.array([3]), 4, limit=None).gather(np.array([0]))[0], base)


def test_changing_a_batch_changes_neither_the_base_nor_the_next_batch() -> None:
    base = numbered(5, 2)
    windows = Windows(base, np.array([3, 4]), 2)

    windows.batch(np.array([0])).fill_(99.0)

    assert np.array_equal(base, numbered(5, 2))
    assert windows.batch(np.array([0])).max() <= 10


def test_a_window_that_would_leave_its_segment_is_refused_with_its_row() -> None:
    segment = np.array([7, 7, 7, 4, 4, 4])

    with pytest.raises(TrainingError, match=r"window of 3 bars at row 4 would leave its segment, .* row 3 \(2 of 3"):
        Windows(numbered(6, 1), np.array([2, 3, 4])[[0, 2, 1]], 3, segment=segment)
    assert len(Windows(numbered(6, 1), np.array([2, 5]), 3, segment=segment)) == 2


def test_a_code_that_comes_back_later_is_another_segment() -> None:
    segment = np.array([1, 1, 2, 1, 1])

    with pytest.raises(TrainingError, match="row 4 would leave its segment, which begins at row 3"):
        Windows(numbered(5, 1), np.array([4]), 3, segment=segment)


def test_a_window_before_the_first_bar_is_refused() -> None:
    with pytest.raises(TrainingError, match="at row 1 would leave"):
        Windows(numbered(5, 1), np.array([1]), 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_only_where_a_window_reaches_it(bad: float) -> None:
    base = numbered(8, 2)
    base[2, 1] = bad

    assert len(Windows(base, np.array([1, 5, 7]), 2)) == 3
    with pytest.raises(TrainingError, match=r"bar 2, which the window at row 3 reaches, holds .* in column 1 \(1 of 2"):
        Windows(base, np.array([3, 7]), 2)


def test_the_check_for_finite_values_sees_every_chunk_of_a_long_base() -> None:
    base = np.zeros((140_000, 1), dtype=np.float32)
    base[131_071] = np.nan

    with pytest.raises(TrainingError, match="bar 131071"):
        Windows(base, np.array([131_073]), 3)
    assert len(Windows(base, np.array([131_074, 131_070]), 3)) == 2


def test_values_are_held_to_ten_scales_either_way() -> None:
    base = np.array([[-1e9], [3.0], [25.0]], dtype=np.float32)

    assert Windows(base, np.array([2]), 3).gather(np.array([0]))[0, :, 0].tolist() == [-10, 3, 10]
    assert base[0, 0] == np.float32(-1e9)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (np.zeros((4, 2)), "float64"),
        (np.zeros((2, 4), dtype=np.float32).T, "C-contiguous: False"),
        (np.zeros(4, dtype=np.float32), r"shape \(4,\)"),
    ],
)
def test_a_base_that_would_have_to_be_copied_is_refused(base: np.ndarray, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Windows(base, np.array([3]), 2)


@pytest.mark.parametrize(("rows", "length"), [([4], 2), ([-1], 2), ([3], 0)])
def test_rows_outside_the_base_and_lengths_below_one_are_refused(rows: list[int], length: int) -> None:
    with pytest.raises(ConfigError):
        Windows(numbered(4, 1), np.array(rows), length)


def test_a_read_only_memory_map_serves_as_base(tmp_path: Path) -> None:
    numbered(50, 3).tofile(tmp_path / "base.bin")
    base = np.memmap(tmp_path / "base.bin", dtype=np.float32, mode="r", shape=(50, 3))

    windows = Windows(base, np.arange(9, 50), 10, limit=None)

    assert np.array_equal(windows.batch(np.array([40])).numpy()[0], numbered(50, 3)[40:50])


def test_windows_cost_far_less_than_three_bases_where_copies_would_cost_sixty() -> None:
    bars, length, features, batch = 60_000, 60, 25, 256
    base = np.random.default_rng(0).standard_normal((bars, features)).astype(np.float32)
    rows = np.arange(length - 1, bars)
    order = np.random.default_rng(1).permutation(len(rows))
    tracemalloc.start()
    try:
        windows = Windows(base, rows, length, segment=np.zeros(bars, dtype=np.int64))
        for begin in range(0, len(order), batch):
            windows.batch(order[begin : begin + batch])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    batch_bytes = batch * length * features * 4
    assert batch_bytes <= peak < 3 * base.nbytes + batch_bytes
    # indices and checks, not windows: all of them would be sixty bases
    assert peak < 0.7 * base.nbytes + 3 * batch_bytes


def test_a_subset_shares_the_base_and_keeps_the_order_it_is_given() -> None:
    windows = Windows(numbered(6, 1), np.array([2, 3, 4, 5]), 2, limit=None)
    part = windows.subset(np.array([3, 0]))

    assert part.base is windows.base
    assert part.gather(np.array([0, 1]))[:, :, 0].tolist() == [[4, 5], [1, 2]]


def labelled() -> LabelledWindows:
    y = np.array([[0, -1], [-1, -1], [2, 1], [1, 1]], dtype=np.int8)
    weight = np.array([[1, 0], [0, 0], [2, 1], [0, 0]], dtype=np.float32)
    return LabelledWindows(Windows(numbered(6, 1), np.array([2, 3, 4, 5]), 2, limit=None), y, weight)


def test_usable_windows_have_a_known_label_of_positive_weight() -> None:
    usable = labelled().usable()

    assert usable.windows.rows.tolist() == [2, 4]
    assert usable.y.tolist() == [[0, -1], [2, 1]]


def test_a_batch_carries_windows_labels_and_weights_of_the_same_rows() -> None:
    batch = labelled().batch(np.array([2, 0]))

    assert batch.x[:, -1, 0].tolist() == [4, 2]
    assert batch.y.tolist() == [[2, 1], [0, -1]]
    assert batch.weight.tolist() == [[2, 1], [1, 0]]
    assert batch.index.tolist() == [2, 0]


def test_labels_of_another_shape_are_refused() -> None:
    data = labelled()

    with pytest.raises(ConfigError, match=r"4 windows with labels \(3, 2\)"):
        LabelledWindows(data.windows, data.y[:3], data.weight[:3])


def test_the_fingerprint_knows_inputs_labels_weights_and_window() -> None:
    def changed(what: str) -> str:
        base, rows, length = numbered(6, 1), np.array([2, 3]), 2
        y, weight = np.zeros((2, 1), dtype=np.int8), np.ones((2, 1), dtype=np.float32)
        if what == "base":
            base[5] += 1
        if what == "rows":
            rows = np.array([2, 4])
        if what == "length":
            length = 3
        if what == "y":
            y[1] = 1
        if what == "weight":
            weight[0] = 2
        return LabelledWindows(Windows(base, rows, length), y, weight).fingerprint()

    assert changed("nothing") == changed("nothing")
    assert len({changed(what) for what in ("nothing", "base", "rows", "length", "y", "weight")}) == 6
