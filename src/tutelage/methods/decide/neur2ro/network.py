"""The set network of Neur2RO: (1) to (3) of the package's docstring."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.core.checks import check_choice, check_integer
from tutelage.core.errors import InputError, MissingError
from tutelage.core.files import check_folder, write_json
from tutelage.core.rng import seeded
from tutelage.data.worlds.two_stage import TwoStageProblem
from tutelage.data.worlds.two_stage.problem import Vector
from tutelage.models.loading import load_weights, save_weights

Aggregation = Literal["mean", "sum"]


class ValueNet(nn.Module):
    """Predicts the second-stage value of (x, xi) for problems of one family and any number of items.

    n_features: F of `item_features`. n_uncertain: e of `item_uncertainty`. embed, post, value: widths; the last of embed and
    post are outputs without a ReLU. Embedding nets have no bias, so an item of zeros adds nothing. joint (ours): the embedding
    of xi sees x_j too, so that the net can tell a loss of an item that is taken from one of an item that is not.
    """

    features_low: Tensor
    features_range: Tensor
    labels: Tensor

    def __init__(
        self,
        n_features: int,
        n_uncertain: int = 1,
        *,
        embed: Sequence[int] = (32, 16),
        post: Sequence[int] = (64, 8),
        value: Sequence[int] = (8,),
        agg: Aggregation = "mean",
        joint: bool = False,
        family: str = "knapsack",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_integer("n_features", n_features)
        check_integer("n_uncertain", n_uncertain)
        check_choice("agg", agg, ("mean", "sum"))
        for name, widths in (("embed", embed), ("post", post), ("value", value)):
            if not isinstance(widths, Sequence) or not widths:
                raise InputError(name, widths, "widths of layers, such as (32, 16)")
            for width in widths:
                check_integer(name, width)
        self.shape = {
            "n_features": n_features,
            "n_uncertain": n_uncertain,
            "embed": list(embed),
            "post": list(post),
            "value": list(value),
            "agg": agg,
            "joint": bool(joint),
            "family": family,
        }
        with seeded(seed, "value net"):
            self.embed_x = _layers((1 + n_features, *embed), bias=False)
            self.embed_xi = _layers((int(joint) + n_uncertain + n_features, *embed), bias=False)
            self.post_x = _layers((embed[-1], *post))
            self.post_xi = _layers((embed[-1], *post))
            self.value = _layers((2 * post[-1], *value, 1))
        self.register_buffer("features_low", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("features_range", torch.ones(n_features, dtype=torch.float64))
        self.register_buffer("labels", torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64))  # n, lowest, highest label

    @property
    def family(self) -> str:
        return str(self.shape["family"])

    @property
    def joint(self) -> bool:
        return bool(self.shape["joint"])

    def forward(self, x: Tensor, u: Tensor, features: Tensor, count: Tensor | None = None) -> Tensor:
        """x: (B, n) in [0, 1]. u: (B, n, e). features: (B, n, F), scaled. count: (B,) true items, by default n. -> (B,)."""
        n = x.new_full((len(x),), x.shape[1]) if count is None else count.to(x)
        emb_x = self.post_x(self._pooled(self.embed_x(torch.cat([x[..., None], features], -1)), n))
        seen = [x[..., None], u, features] if self.joint else [u, features]
        emb_xi = self.post_xi(self._pooled(self.embed_xi(torch.cat(seen, -1)), n))
        found: Tensor = self.value(torch.cat([emb_x, emb_xi], -1)).squeeze(-1)
        return found

    def _pooled(self, items: Tensor, count: Tensor) -> Tensor:
        summed = items.sum(-2)
        return summed / count[:, None] if self.shape["agg"] == "mean" else summed

    def pool_scale(self, n: int) -> float:
        """What a sum over n items is multiplied by."""
        return 1.0 / n if self.shape["agg"] == "mean" else 1.0

    def scaled_features(self, problem: TwoStageProblem) -> Vector:
        """(n, F): features min-max scaled over the training set. Checks that the net is for this problem."""
        features = problem.item_features()
        if problem.name != self.family:
            raise InputError("net", f"a value network for {self.family}", f"one that was trained for {problem.name}")
        n_features, n_uncertain = self.shape["n_features"], self.shape["n_uncertain"]
        if features.shape[1] != n_features or problem.item_uncertainty.shape[1] != n_uncertain:
            got = f"{features.shape[1]} features and {problem.item_uncertainty.shape[1]} uncertain numbers an item"
            raise InputError("problem", got, f"{n_features} and {n_uncertain}, as the net was trained for")
        scaled: Vector = (features - self.features_low.numpy()) / self.features_range.numpy()
        return scaled

    def label_range(self, n: int) -> tuple[float, float]:
        """(lowest, range) of the labels of n items; between the trained sizes linear, beyond them in proportion to n."""
        sizes, low, high = self.labels.numpy().T
        nearest = float(np.clip(n, sizes[0], sizes[-1]))
        lowest, highest = float(np.interp(nearest, sizes, low)), float(np.interp(nearest, sizes, high))
        return lowest * n / nearest, (highest - lowest) * n / nearest

    @torch.no_grad()
    def predict(self, problem: TwoStageProblem, x: Vector, xi: Vector) -> Vector:
        """The predicted second-stage values (S,), in units of cost, at x (S, n) and xi (S, k)."""
        features = torch.as_tensor(self.scaled_features(problem), dtype=torch.float32)
        u = torch.as_tensor(np.einsum("nek,sk->sne", problem.item_uncertainty, xi), dtype=torch.float32)
        first = torch.as_tensor(np.asarray(x), dtype=torch.float32)
        scaled = self(first, u, features.expand(len(first), *features.shape)).double().numpy()
        low, width = self.label_range(problem.n_items)
        found: Vector = low + width * scaled
        return found

    def save(self, folder: Path | str) -> None:
        """Write weights (safetensors) and shape (JSON) into a folder."""
        folder = Path(folder)
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self, folder / "model.safetensors")
        write_json(folder / "net.json", {"shape": self.shape, "sizes": len(self.labels)})

    @classmethod
    def load(cls, folder: Path | str) -> ValueNet:
        """Read what `save` wrote."""
        folder = Path(folder)
        if not (folder / "net.json").is_file():
            raise MissingError(f"there is no value network at {folder}: net.value_net.save(folder) writes one")
        try:
            stored = json.loads((folder / "net.json").read_text(encoding="utf-8"))
            net = cls(**stored["shape"])
            net.labels = torch.zeros((int(stored["sizes"]), 3), dtype=torch.float64)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError("folder", str(folder), "a folder that ValueNet.save wrote") from error
        load_weights(net, folder / "model.safetensors")
        return net.eval()


def _layers(widths: Sequence[int], *, bias: bool = True) -> nn.Sequential:
    """Linear layers with a ReLU between each two."""
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers += [nn.ReLU()] * bool(i) + [nn.Linear(widths[i], widths[i + 1], bias=bias)]
    return nn.Sequential(*layers)
