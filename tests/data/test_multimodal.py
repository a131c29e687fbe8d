"""Batches and sets of several modalities: what they refuse, what they keep together."""

from __future__ import annotations

import pytest
import torch

from tutelage.core.errors import InputError, SplitError
from tutelage.core.modalities import MultiModalBatch, as_batch, labelled
from tutelage.data.guard import training_only
from tutelage.data.multimodal import MultiModalSet


def example(n: int = 6, **changes) -> MultiModalSet:
    inputs = {"sound": torch.arange(n * 4.0).reshape(n, 4), "text": tuple(f"t{i}" for i in range(n))}
    inputs["sight"] = torch.arange(n * 2, dtype=torch.uint8).reshape(n, 2)
    values = {"inputs": inputs, "labels": torch.arange(n) % 2, "classes": ("a", "b"), "name": "ex", **changes}
    return MultiModalSet(**values)


def test_rows_stay_together_through_every_way_of_taking_them():
    present = torch.tensor([[True, True, i % 2 == 0] for i in range(6)])
    lengths = {"sound": torch.tensor([1, 2, 3, 4, 4, 4])}
    data = example(present=present, lengths=lengths, groups=torch.arange(6))
    index = torch.tensor([4, 1])
    batch, y = data[index]
    assert y.tolist() == [0, 1]
    assert batch.inputs["text"] == ("t4", "t1")
    assert batch.tensor("sound")[:, 0].tolist() == [16.0, 4.0]
    assert batch.has("sight").tolist() == [True, False]
    assert batch.lengths["sound"].tolist() == [4, 2]
    part = data.take(torch.tensor([False, True, False, False, True, False]))
    assert part.groups is not None
    assert part.groups.tolist() == [1, 4]
    again = batch.take(torch.tensor([1, 0])).take(slice(0, 1))
    assert again.inputs["text"] == ("t1",)
    assert again.has("sight").tolist() == [False]


def test_bytes_become_numbers_from_0_to_1():
    batch, _ = example()[[5]]
    assert batch.tensor("sight").tolist() == [[10 / 255, 11 / 255]] or torch.allclose(
        batch.tensor("sight"), torch.tensor([[10 / 255, 11 / 255]])
    )


def test_only_keeps_names_presences_and_lengths_in_order():
    data = example(present=torch.tensor([[True, False, True]] * 5 + [[True] * 3]), lengths={"sound": torch.full((6,), 3)})
    batch = data[[0, 1]][0].only(["sight", "sound"])
    assert batch.modalities == ("sound", "sight")
    assert batch.present is not None
    assert batch.present.tolist() == [[True, True]] * 2
    assert batch.has("text").tolist() == [False, False]
    assert set(batch.only(["sight"]).lengths) == set()
    with pytest.raises(InputError, match="smell"):
        batch.only(["smell"])


def test_a_loader_gives_each_sample_once_and_repeats_itself():
    data = example(n=7)
    orders = []
    for _ in range(2):
        loader = data.loader(3, generator=torch.Generator().manual_seed(1))
        rows = [text for batch, _ in loader for text in batch.inputs["text"]]
        assert sorted(rows) == [f"t{i}" for i in range(7)]
        orders.append(rows)
    assert orders[0] == orders[1]
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"inputs": {}}, "inputs"),
        ({"inputs": {"a": torch.zeros(6, 2), "b": torch.zeros(5, 2)}}, "as many of each"),
        ({"inputs": {"a": torch.zeros(6)}}, "two sides"),
        ({"inputs": {"a": ["x"] * 6}}, "tuple of strings"),
        ({"inputs": {"a": torch.full((6, 2), float("nan"))}}, "NaN"),
        ({"present": torch.tensor([[True, False, True]] * 6)}, "no sample with text"),
        ({"present": torch.tensor([[True] * 3] * 5 + [[False] * 3])}, "sample 5 without any modality"),
        ({"present": torch.ones(6, 2, dtype=torch.bool)}, "bool of shape"),
        ({"present": torch.ones(6, 3)}, "bool of shape"),
        ({"lengths": {"sound": torch.full((6,), 5)}}, "lengths from 0 to 4"),
        ({"lengths": {"text": torch.full((6,), 1)}}, "lengths of tensors"),
        ({"labels": torch.full((6,), 2)}, "labels from 0 to 1"),
        ({"labels": torch.zeros(6)}, "int64"),
        ({"classes": "ab"}, "tuple of class names"),
    ],
)
def test_what_does_not_fit_is_named(changes, match):
    with pytest.raises(InputError, match=match):
        example(**changes)


def test_what_is_absent_may_hold_anything():
    values = torch.zeros(2, 3)
    values[0] = float("nan")
    present = torch.tensor([[False, True], [True, True]])
    data = MultiModalSet({"a": values, "b": torch.zeros(2, 3)}, torch.tensor([0, 1]), ("x", "y"), present=present)
    assert len(data) == 2


def test_test_data_cannot_be_read_or_renamed_while_something_is_fitted():
    data = example(split="test")
    with training_only(), pytest.raises(SplitError):
        data[[0]]
    with training_only(), pytest.raises(SplitError):
        data.take([0], "train")


def test_the_hash_changes_with_any_part():
    base = example().sha256
    assert example().sha256 == base
    texts = dict(example().inputs)
    texts["text"] = ("t0", "t1", "t2", "t3", "t4", "other")
    assert example(inputs=texts).sha256 != base
    assert example(present=torch.ones(6, 3, dtype=torch.bool)).sha256 != base


def test_dicts_are_batches_and_other_things_are_not():
    assert as_batch({"a": torch.zeros(2, 1)}).modalities == ("a",)
    with pytest.raises(InputError, match="MultiModalBatch or a dict"):
        as_batch(torch.zeros(2, 1))
    with pytest.raises(InputError, match="integer labels"):
        labelled(({"a": torch.zeros(2, 1)}, torch.zeros(2)))
    with pytest.raises(InputError, match="a tensor"):
        MultiModalBatch({"a": ("x", "y")}).tensor("a")


def test_split_off_keeps_all_rows_once():
    rest, some = example(n=9).split_off(3, seed=2)
    assert some.split == "validation"
    assert sorted([*rest.inputs["text"], *some.inputs["text"]]) == [f"t{i}" for i in range(9)]
