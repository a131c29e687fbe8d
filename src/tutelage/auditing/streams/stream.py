"""`Stream`: domains, in an order, at severities, with their labels mixed or sorted, once or several times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from tutelage.core.checks import check_choice, check_integer, check_number
from tutelage.core.errors import InputError
from tutelage.core.rng import derive, generator, numpy_generator
from tutelage.data.images import ImageSet
from tutelage.threats.corruptions import Corruption, expanded
from tutelage.threats.corruptions.corruption import LEAST

Order = Literal["given", "shuffled", "mixed"]
Labels = Literal["shuffled", "given", "sorted", "dirichlet"]
GRADUAL = (1, 2, 3, 4, 5, 4, 3, 2, 1)


@dataclass(frozen=True, eq=False)
class Domain:
    """One stretch of a stream: images as they are, or under a corruption.

    name: results are gathered by it, so the severities of one corruption share theirs. step: what tells them apart.
    seeds: (N,) one an image, of the corruption's noise.
    """

    name: str
    data: ImageSet
    corruption: Corruption | None = None
    seeds: Tensor | None = None

    @property
    def step(self) -> str:
        return self.name if self.corruption is None else str(self.corruption)

    def images(self, index: Tensor) -> Tensor:
        """x (B, C, H, W) float32 in [0, 1] of positions (B,)."""
        x, _ = self.data[index]
        if self.corruption is None:
            return x
        return self.corruption(x, seeds=self.seeds[index] if self.seeds is not None else None)

    def labels(self, index: Tensor) -> Tensor:
        return self.data.labels[index]


@dataclass(frozen=True, eq=False)
class Segment:
    """A stretch between two shifts: items (N, 2) are (number of the domain, position in it), in the order they come."""

    number: int  # of the pass, from 1
    name: str
    items: Tensor


@dataclass(frozen=True, eq=False)
class Stream:
    """What comes, and in which order; the same seed gives the same stream.

    domains: in the order given. order: "given"; "shuffled" by the seed, where domains of one name stay together in their
    order; "mixed", all samples of all domains as one stretch. labels: within a stretch "shuffled", as "given", "sorted" by
    class (classes in an order drawn by the seed), or "dirichlet": as many slots as classes, each class spread over them by
    Dirichlet(delta), small delta being nearly sorted. passes: how often all of it comes; samples are shuffled anew, the order
    of the domains and the images stay.

    Raises InputError for no domains, domains of other shapes or classes.
    """

    domains: tuple[Domain, ...]
    order: Order = "given"
    labels: Labels = "shuffled"
    delta: float = 0.1
    passes: int = 1
    seed: int = 0
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("order", self.order, get_args(Order))
        check_choice("labels", self.labels, get_args(Labels))
        check_number("delta", self.delta, "a number > 0", low=1e-6)
        check_integer("passes", self.passes)
        if not self.domains or not all(isinstance(one, Domain) for one in self.domains):
            raise InputError("domains", self.domains, "at least one Domain")
        first = self.domains[0].data
        for one in self.domains[1:]:
            if one.data.images.shape[1:] != first.images.shape[1:] or len(one.data.classes) != len(first.classes):
                got = f"{one.step} with images {tuple(one.data.images.shape[1:])} of {len(one.data.classes)} classes"
                wanted = f"{tuple(first.images.shape[1:])} and {len(first.classes)} classes, as {self.domains[0].step} has"
                raise InputError("domains", got, wanted)

    @classmethod
    def of(cls, domains: Mapping[str, ImageSet], **settings: Any) -> Stream:
        """A stream of natural domains: name -> images, in that order. Settings: those of `Stream`."""
        if not isinstance(domains, Mapping) or not all(isinstance(data, ImageSet) for data in domains.values()):
            raise InputError("domains", type(domains).__name__, "a mapping from names to ImageSets: as_images(data)")
        return cls(tuple(Domain(name, data) for name, data in domains.items()), **settings)

    @classmethod
    def corrupted(
        cls,
        data: ImageSet,
        corruptions: Sequence[str],
        *,
        severities: Sequence[int] | Literal["gradual"] = (5,),
        n: int | None = None,
        distinct: bool = False,
        seed: int = 0,
        **settings: Any,
    ) -> Stream:
        """A stream of common corruptions of labelled images (names or families; see docs/corruptions.md).

        severities: each corruption runs through them; "gradual" is 1, 2, 3, 4, 5, 4, 3, 2, 1. n: images of each severity step,
        drawn by the seed; all if left out. distinct: every step gets images of its own, as far as they go, else all get
        the same. The noise of an image depends on seed and image only. Other settings: those of `Stream`.
        """
        if not isinstance(data, ImageSet):
            raise InputError("data", type(data).__name__, "an ImageSet: as_images(data)")
        if min(data.images.shape[2:]) < LEAST:
            raise InputError("data", f"images {tuple(data.images.shape[2:])}", f"at least {LEAST} pixels a side")
        names = expanded(corruptions, "corruptions")
        if not names:
            raise InputError("corruptions", "none", "at least one name or family")
        if isinstance(severities, str):
            check_choice("severities", severities, ("gradual",))
        steps = GRADUAL if isinstance(severities, str) else tuple(severities)
        if not steps:
            raise InputError("severities", "none", "severities from 1 to 5, or gradual")
        chosen = [Corruption(name, severity) for name in names for severity in steps]
        wanted = len(data) // (len(chosen) if distinct else 1) if n is None else n
        check_integer("n", wanted)
        if wanted * (len(chosen) if distinct else 1) > len(data):
            each = f" for each of {len(chosen)} steps" if distinct else ""
            raise InputError("n", f"{wanted} images{each}", f"no more than the {len(data)} there are")
        source = generator(seed, "stream")
        seeds = torch.randint(2**48, (len(data),), generator=source)
        drawn = torch.randperm(len(data), generator=source)
        domains = []
        for i, corruption in enumerate(chosen):
            index = drawn[i * wanted : (i + 1) * wanted] if distinct else drawn[:wanted]
            index = index.sort().values
            domains.append(Domain(corruption.name, data.take(index), corruption, seeds[index]))
        about = {"data": data.name, "corruptions": [str(one) for one in chosen], "n": wanted, "distinct": distinct}
        return cls(tuple(domains), seed=seed, about=about, **settings)

    def __len__(self) -> int:
        """Samples in all passes."""
        return self.passes * sum(len(one.data) for one in self.domains)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the domains, in the order in which they come first."""
        return tuple(dict.fromkeys(self.domains[i].name for i in self._order()))

    def describe(self) -> dict[str, Any]:
        """Everything that decides what comes, but for the images."""
        settings = {"order": self.order, "labels": self.labels, "passes": self.passes, "seed": self.seed}
        return {**settings, **({"delta": self.delta} if self.labels == "dirichlet" else {}), **self.about}

    def segments(self) -> list[Segment]:
        """The stretches of all passes, in order."""
        found = []
        for number in range(1, self.passes + 1):
            if self.order == "mixed":
                items = torch.cat([_all_of(i, one) for i, one in enumerate(self.domains)])
                found.append(Segment(number, "mixed", self._arranged(items, number, 0)))
                continue
            for place, i in enumerate(self._order()):
                items = self._arranged(_all_of(i, self.domains[i]), number, place)
                found.append(Segment(number, self.domains[i].step, items))
        return found

    def images(self, items: Tensor) -> Tensor:
        """x (B, C, H, W) of items (B, 2); here the labels stay behind."""
        first = self.domains[0].data
        out = torch.empty(len(items), *first.images.shape[1:])
        for i in torch.unique(items[:, 0]).tolist():
            mine = items[:, 0] == i
            out[mine] = self.domains[i].images(items[mine, 1])
        return out

    def true_labels(self, items: Tensor) -> Tensor:
        """y (B,) of items (B, 2): for scoring, once the answers are in."""
        out = torch.empty(len(items), dtype=torch.int64)
        for i in torch.unique(items[:, 0]).tolist():
            mine = items[:, 0] == i
            out[mine] = self.domains[i].labels(items[mine, 1])
        return out

    def _order(self) -> list[int]:
        given = list(range(len(self.domains)))
        if self.order != "shuffled":
            return given
        names = list(dict.fromkeys(one.name for one in self.domains))
        shuffled = [names[i] for i in torch.randperm(len(names), generator=generator(self.seed, "order")).tolist()]
        return [i for name in shuffled for i in given if self.domains[i].name == name]

    def _arranged(self, items: Tensor, number: int, place: int) -> Tensor:
        """Items of a stretch in the order of their labels."""
        if self.labels == "given":
            return items
        names = ("labels", number, place)
        items = items[torch.randperm(len(items), generator=generator(self.seed, *names))]
        if self.labels == "shuffled":
            return items
        labels, classes = self.true_labels(items), len(self.domains[0].data.classes)
        if self.labels == "sorted":
            rank = torch.randperm(classes, generator=generator(self.seed, "classes", *names))
            return items[rank[labels].argsort(stable=True)]
        return items[dirichlet_order(labels.numpy(), classes, self.delta, derive(self.seed, "dirichlet", *names))]


def dirichlet_order(labels: np.ndarray, classes: int, delta: float, seed: int) -> Tensor:
    """Positions (N,) in an order in which classes come in bursts: each class is cut into as many slots as there are
    classes, by shares drawn from Dirichlet(delta); a slot holds its parts in random order (as in NOTE, arXiv 2208.05117)."""
    rng = numpy_generator(seed, "slots")
    slots: list[list[np.ndarray]] = [[] for _ in range(classes)]
    for c in range(classes):
        mine = np.flatnonzero(labels == c)
        cuts = (np.cumsum(rng.dirichlet([delta] * classes))[:-1] * len(mine)).round().astype(int)
        for slot, part in zip(slots, np.split(mine, cuts), strict=True):
            slot.append(part)
    order = [slot[i] for slot in slots for i in rng.permutation(classes)]
    return torch.from_numpy(np.concatenate(order))


def _all_of(i: int, domain: Domain) -> Tensor:
    n = len(domain.data)
    return torch.stack([torch.full((n,), i), torch.arange(n)], 1)
