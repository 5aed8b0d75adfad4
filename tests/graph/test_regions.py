from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vitedge.graph.regions import extent, joined, relative, reshaped, whole, worth_computing


@given(st.data())
def test_a_reshaped_region_holds_the_same_elements(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=5))
    total = int(np.prod(sizes))
    cut = data.draw(st.sampled_from([size for size in range(1, total + 1) if total % size == 0]))
    old, new = (sizes, [cut, total // cut]) if data.draw(st.booleans()) else ([cut, total // cut], sizes)
    region = tuple(
        (first, data.draw(st.integers(first + 1, size)))
        for size in old
        for first in [data.draw(st.integers(0, size - 1))]
    )
    found = reshaped(region, old, new)
    if found is None:
        return
    tensor = np.arange(total)
    before = tensor.reshape(old)[tuple(slice(*span) for span in region)]
    after = tensor.reshape(new)[tuple(slice(*span) for span in found)]
    np.testing.assert_array_equal(before.ravel(), after.ravel())


@given(st.data())
def test_regions_joined_hold_the_elements_of_one_after_the_other(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    axis = data.draw(st.integers(0, len(shape) - 1))
    shape[axis] = data.draw(st.integers(2, 5))
    cuts = sorted(data.draw(st.lists(st.integers(0, shape[axis]), min_size=3, max_size=4, unique=True)))
    regions = [(*whole(shape[:axis]), span, *whole(shape[axis + 1 :])) for span in pairwise(cuts)]
    if data.draw(st.booleans()):
        regions = data.draw(st.permutations(regions))
    tensor = np.arange(int(np.prod(shape))).reshape(shape)
    expected = np.concatenate([tensor[tuple(slice(*span) for span in region)].ravel() for region in regions])
    found = joined(regions, shape)
    if found is not None:
        np.testing.assert_array_equal(tensor[tuple(slice(*span) for span in found)].ravel(), expected)
    elif all(size == 1 for size in shape[:axis]):
        assert (np.diff(expected) != 1).any()


def test_regions_are_joined_where_that_costs_nothing() -> None:
    assert worth_computing([((0, 1),), ((1, 2),), ((5, 6),)], [10]) == [((0, 2),), ((5, 6),)]
    assert worth_computing([((1, 10),)], [10]) == [whole([10])]
    assert worth_computing([((0, 1), (0, 3)), ((0, 5), (3, 9))], [5, 9]) == [((0, 1), (0, 3)), ((0, 5), (3, 9))]
    assert extent(relative(((3, 5),), ((2, 9),))) == [2]
