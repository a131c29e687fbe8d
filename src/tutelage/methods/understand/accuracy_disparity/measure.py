"""Measuring the gap: pairs of classes, imbalance by subsampling, accuracy of each class on balanced data."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from tutelage.core.checks import check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.data.images import ImageSet
from tutelage.models.checks import check_inputs, check_labels, run_model
from tutelage.models.guard import evaluating

MAJORITY, MINORITY = 0, 1
Samples = ImageSet | tuple[Tensor, Tensor]  # labelled images, or (x (N, ...), y (N,)) of any inputs


def class_pair(data: ImageSet, majority: str | int, minority: str | int) -> ImageSet:
    """Two classes of a set, by name or number, relabelled: 0 the majority-to-be, 1 the minority."""
    chosen = [_class_number(data, "majority", majority), _class_number(data, "minority", minority)]
    if chosen[0] == chosen[1]:
        raise InputError("minority", data.classes[chosen[1]], "another class than the majority")
    both = data.take((data.labels == chosen[0]) | (data.labels == chosen[1]))
    names = tuple(data.classes[c] for c in chosen)
    labels = (both.labels == chosen[1]).long()
    return replace(both, labels=labels, classes=names, name=f"{data.name}, {names[0]} and {names[1]}")


def make_imbalanced(
    data: Samples, ratio: float, generator: torch.Generator, *, minority: int = MINORITY, n_majority: int | None = None
) -> Samples:
    """A part of two-class data in which the majority is `ratio` times as frequent, drawn without replacement.

    n_majority: samples of the majority (default: as many as the rarer class has, so that every ratio has the same
    majority); the minority gets n_majority / ratio of them, rounded. The order of the data is kept.
    Raises InputError if a class is too small for it, or would be empty.
    """
    check_number("ratio", ratio, "majority over minority, >= 1 (below 1: swap the classes)", low=1)
    if minority not in (0, 1):
        raise InputError("minority", minority, "label 0 or 1")
    labels = labels_of(data)
    index = [(labels == c).nonzero().squeeze(1) for c in (1 - minority, minority)]
    largest = min(len(one) for one in index)
    if n_majority is not None:
        check_integer("n_majority", n_majority)
    n = largest if n_majority is None else n_majority
    wanted = (n, round(n / ratio))
    for name, one, size in zip(("majority", "minority"), index, wanted, strict=True):
        if not 0 < size <= len(one):
            raise InputError(
                "data", f"{len(one)} samples of the {name}", f"{max(1, size)}, for n_majority {n} at ratio {ratio:g}"
            )
    drawn = [one[torch.randperm(len(one), generator=generator)[:size]] for one, size in zip(index, wanted, strict=True)]
    return part(data, torch.cat(drawn).sort().values)


def half_mean_difference(data: Samples) -> Tensor:
    """mu of the calculator, shape of one input: half of (mean of the minority - mean of the majority)."""
    x, y = arrays(data)
    labels_of(data)
    return (x[y == MINORITY].double().mean(0) - x[y == MAJORITY].double().mean(0)) / 2


def per_class_accuracy(predicted: Tensor, labels: Tensor, classes: int = 2) -> Tensor:
    """The share that is right in each class, (classes,) in [0, 1]. predicted and labels: (N,) integers.

    Raises InputError for a class without samples: it has no accuracy.
    """
    check_labels(predicted, len(labels), name="predicted")
    check_labels(labels, len(labels), classes, name="labels")
    counts = labels.bincount(minlength=classes)
    if bool((counts == 0).any()):
        raise InputError("labels", f"no sample of class {int((counts == 0).nonzero()[0])}", "samples of every class")
    return labels[predicted == labels].bincount(minlength=classes).double() / counts


def class_accuracies(model: nn.Module, data: Samples, batch_size: int = 1024) -> tuple[float, float]:
    """(majority, minority): clean accuracy of each class of two-class data, in evaluation mode."""
    x, y = arrays(data)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    with torch.no_grad(), evaluating(model):
        predicted = [run_model(model, chunk.to(device)).argmax(1).cpu() for chunk in torch.split(x, batch_size)]
    majority, minority = per_class_accuracy(torch.cat(predicted), y).tolist()
    return majority, minority


def arrays(data: Samples) -> tuple[Tensor, Tensor]:
    """(x as floating point, y) of all of it; reading test data while something is fitted raises SplitError."""
    return data[:] if isinstance(data, ImageSet) else data


def labels_of(data: Samples) -> Tensor:
    """The labels of two-class data, checked: only 0 and 1, and both of them."""
    if isinstance(data, ImageSet):
        labels = data.labels
    elif isinstance(data, tuple) and len(data) == 2:
        check_inputs(data[0], None)
        check_labels(data[1], len(data[0]))
        labels = data[1]
    else:
        raise InputError("data", type(data).__name__, "an ImageSet or a pair (x, y) of tensors")
    if sorted(set(labels.tolist())) != [0, 1]:
        some = sorted(set(labels.tolist()))[:5]
        raise InputError("data", f"labels {some}", "two classes, 0 the majority and 1 the minority (see class_pair)")
    return labels


def part(data: Samples, index: Tensor) -> Samples:
    """The samples at these positions."""
    return data.take(index) if isinstance(data, ImageSet) else (data[0][index], data[1][index])


def _class_number(data: ImageSet, argument: str, name: str | int) -> int:
    if isinstance(name, str) and name in data.classes:
        return data.classes.index(name)
    if isinstance(name, int) and not isinstance(name, bool) and 0 <= name < len(data.classes):
        return name
    raise InputError(argument, name, f"one of {', '.join(data.classes)}, or its number")
