"""A bounded dict evicts its oldest entries."""

from __future__ import annotations

import threading

import pytest

from ops.index.bounded_dict import BoundedDict


def test_a_new_entry_evicts_the_oldest() -> None:
    bounded: BoundedDict[str, int] = BoundedDict(2)
    for number, key in enumerate("abac"):
        bounded[key] = number
    assert bounded == {"a": 2, "c": 3}


def test_popping_and_setting_an_entry_makes_it_the_newest() -> None:
    bounded: BoundedDict[str, int] = BoundedDict(2)
    bounded["a"] = bounded["b"] = 0
    bounded["a"] = bounded.pop("a")
    bounded["c"] = 0
    assert list(bounded) == ["a", "c"]


def test_the_total_weight_is_limited_and_the_newest_entry_always_stays() -> None:
    bounded: BoundedDict[str, str] = BoundedDict(5, weigh=len)
    bounded["a"], bounded["b"], bounded["c"] = "xx", "xx", "x"
    assert list(bounded) == ["a", "b", "c"]
    bounded["b"] = "xxx"
    assert list(bounded) == ["c", "b"]
    bounded["d"] = "x" * 50
    assert list(bounded) == ["d"]
    bounded["e"] = "x"
    assert list(bounded) == ["e"]


def test_each_evicted_entry_is_told_and_no_removed_or_replaced_one() -> None:
    told: list[tuple[str, int]] = []
    table: BoundedDict[str, int] = BoundedDict(
        3, weigh=lambda value: value, evicted=lambda key, value: told.append((key, value))
    )
    table["a"] = table["b"] = 1
    table["b"] = 2
    table.pop("a")
    assert told == []
    table["c"] = 3
    assert told == [("b", 2)]


def test_removing_entries_frees_space() -> None:
    bounded: BoundedDict[str, str] = BoundedDict(4, weigh=len)
    bounded["a"], bounded["b"] = "xx", "xx"
    del bounded["a"]
    assert bounded.pop("gone", None) is None
    with pytest.raises(KeyError):
        bounded.pop("gone")
    bounded["c"] = "xx"
    assert list(bounded) == ["b", "c"]
    bounded.clear()
    bounded["d"], bounded["e"] = "xx", "xx"
    assert list(bounded) == ["d", "e"]


def test_concurrent_threads_stay_within_the_limit() -> None:
    bounded: BoundedDict[int, int] = BoundedDict(50)

    def fill(start: int) -> None:
        for key in range(start, start + 2000):
            bounded[key] = key

    threads = [threading.Thread(target=fill, args=(1000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bounded) == 50
