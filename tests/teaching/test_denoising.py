"""Training a small diffusion model: the loss by hand, dropped prompts, resuming, bad input."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.core.rng import generator, seeded
from tutelage.models.diffusion import NoiseSchedule, PromptDenoiser, WordEncoder, noise_schedule
from tutelage.teaching.clipping import ClippedAdamW
from tutelage.teaching.denoising import DenoisingLoss, References, dropped, fit_denoiser, posterior_mean


class Tiny(nn.Module):
    """A network of one convolution that adds what the prompt says."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.word = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(4, 1)

    def forward(self, x: Tensor, t: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        said = (self.word(features) * mask[..., None]).sum((1, 2))
        out: Tensor = self.conv(x) + said[:, None, None, None]
        return out


def model(prediction: Any = "eps") -> PromptDenoiser:
    with seeded(0):
        return PromptDenoiser(WordEncoder(["a", "b"], 3, 4), Tiny(), noise_schedule(), prediction)


def context(seed: int = 0) -> Any:
    return SimpleNamespace(generator=generator(seed))


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_a_network_that_says_the_target_has_no_loss(prediction: Any):
    seen: dict[str, Tensor] = {}

    class Knows(PromptDenoiser):
        def forward(self, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
            a, s = self.schedule.a(t, x), self.schedule.s(t, x)
            x0 = torch.full_like(x, 0.5)  # every picture is 0.75 in [0, 1]
            eps = (x - a * x0) / s
            seen["t"] = t
            return {"eps": eps, "v": a * eps - s * x0, "x0": x0}[self.prediction]

    knows = Knows(WordEncoder(["a"], 2, 4), Tiny(), noise_schedule(), prediction)
    batch = (torch.full((64, 1, 2, 2), 0.75), knows.tokenize(["a"] * 64))
    loss, _ = DenoisingLoss()(knows, batch, context())
    assert float(loss) < 1e-5
    assert int(seen["t"].min()) < 100 < 900 < int(seen["t"].max()) < 1000


def test_the_weight_of_an_error_by_hand():
    class Off(PromptDenoiser):
        """Wrong by 0.1 everywhere, at one level."""

        def forward(self, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
            a, s = self.schedule.a(t, x), self.schedule.s(t, x)
            eps = (x - a * 0.5) / s
            right = {"eps": eps, "v": a * eps - s * 0.5, "x0": torch.full_like(x, 0.5)}[self.prediction]
            return right + 0.1

    def loss(prediction: Any, weighting: Any) -> float:
        schedule = NoiseSchedule(torch.tensor([0.36, 0.36 - 1e-9], dtype=torch.float64))  # a = 0.6, s = 0.8
        off = Off(WordEncoder(["a"], 2, 4), Tiny(), schedule, prediction)
        batch = (torch.full((8, 1, 2, 2), 0.75), off.tokenize(["a"] * 8))
        return float(DenoisingLoss(weighting=weighting)(off, batch, context())[0])

    assert loss("eps", "own") == pytest.approx(0.01, rel=1e-3)
    assert loss("eps", "v") == pytest.approx(0.01 / 0.36, rel=1e-3)
    assert loss("x0", "v") == pytest.approx(0.01 / 0.64, rel=1e-3)
    assert loss("v", "v") == pytest.approx(0.01, rel=1e-3)


def test_words_are_dropped_and_the_start_token_stays():
    ids = torch.tensor([[1, 2, 3], [1, 3, 0]])
    assert dropped(ids, torch.ones_like(ids, dtype=torch.bool)).tolist() == [[1, 0, 0], [1, 0, 0]]
    assert dropped(ids, torch.tensor([[True, True, False], [False, False, True]])).tolist() == [[1, 0, 3], [1, 3, 0]]

    seen: list[Tensor] = []

    class Looks(PromptDenoiser):
        def forward(self, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
            seen.append(ids)
            return x

    looks = Looks(WordEncoder(["a", "b"], 3, 4), Tiny(), noise_schedule())
    batch = (torch.rand(4000, 1, 1, 1), looks.tokenize(["a b"] * 4000))
    DenoisingLoss(0.1, 0.2)(looks, batch, context())
    kept = seen[0][:, 1:] != 0
    assert float((~kept).all(1).float().mean()) == pytest.approx(0.1 + 0.9 * 0.04, abs=0.02)
    assert float(kept[:, 0].float().mean()) == pytest.approx(0.9 * 0.8, abs=0.03)
    assert bool((seen[0][:, 0] == 1).all())


def test_the_levels_of_a_batch_are_spread():
    seen: list[Tensor] = []

    class Looks(PromptDenoiser):
        def forward(self, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
            seen.append(t)
            return x

    looks = Looks(WordEncoder(["a"], 2, 4), Tiny(), noise_schedule())
    DenoisingLoss()(looks, (torch.rand(10, 1, 1, 1), looks.tokenize(["a"] * 10)), context())
    assert (seen[0] // 100).tolist() == list(range(10))


def test_the_posterior_mean_by_hand():
    schedule = NoiseSchedule(torch.tensor([0.64, 0.36], dtype=torch.float64))
    x, candidates = torch.tensor([[[[0.8]]]]), torch.tensor([[[[[1.0]]], [[[-1.0]]]]])
    # a = 0.8, s = 0.6: both squares are equal but for the product, +-0.8 x 0.8 / 0.36
    odds = torch.tensor(2 * 0.64 / 0.36).exp()
    wanted = (odds - 1) / (odds + 1)
    assert float(posterior_mean(schedule, x, torch.tensor([0]), candidates)) == pytest.approx(float(wanted), abs=1e-6)
    # lengths count too: of 1 and 3, seen at 0.8, the nearer to 0.8 is 0.8 x 1
    near = posterior_mean(schedule, x, torch.tensor([0]), torch.tensor([[[[[1.0]]], [[[3.0]]]]]))
    odds = torch.tensor((0.8 * 3 - 0.8) ** 2 / 2 / 0.36).exp()
    assert float(near) == pytest.approx(float((odds + 3) / (odds + 1)), abs=1e-6)


def test_references_have_the_words_that_were_kept():
    ids = torch.tensor([[1, 2, 3], [1, 2, 2], [1, 3, 3], [1, 3, 0]])
    pool = References(torch.arange(4.0).reshape(4, 1, 1, 1), ids, 50)
    kept = torch.tensor([[1, 2, 0], [1, 0, 3], [1, 0, 0]])
    drawn = pool.draw(torch.full((3, 1, 1, 1), 9.0), kept, generator(0)).flatten(1)
    assert drawn.shape == (3, 51)
    assert bool((drawn[:, 0] == 9).all())  # the picture itself
    assert [set(row[1:].tolist()) for row in drawn] == [{0.0, 1.0}, {0.0, 2.0}, {0.0, 1.0, 2.0, 3.0}]
    with pytest.raises(InputError, match="references"):
        pool.draw(torch.zeros(1, 1, 1, 1), torch.tensor([[1, 7, 0]]), generator(0))


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_the_mean_of_the_references_is_the_target(prediction: Any):
    """A network that knows the mean of both pictures has no loss; with one draw as the target it has."""

    class Knows(PromptDenoiser):
        def forward(self, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
            both = torch.tensor([-1.0, 1.0]).reshape(1, 2, 1, 1, 1).expand(len(x), 2, 1, 1, 1)
            x0 = posterior_mean(self.schedule, x, t, both)
            return self.schedule.target(self.prediction, x0, (x - self.schedule.a(t, x) * x0) / self.schedule.s(t, x), t)

    knows = Knows(WordEncoder(["a"], 2, 4), Tiny(), noise_schedule(), prediction)
    images = torch.tensor([0.0, 1.0]).repeat(100).reshape(200, 1, 1, 1)
    ids = knows.tokenize(["a"] * 200)
    pool = References(2 * images - 1, ids, 2000)
    with_mean = float(DenoisingLoss(weighting="v", references=pool)(knows, (images, ids), context())[0])
    with_draw = float(DenoisingLoss(weighting="v")(knows, (images, ids), context())[0])
    assert with_mean < 0.02 * with_draw


def test_training_lowers_the_loss_and_goes_on_where_it_stopped(tmp_path: Path):
    images = torch.cat([torch.zeros(16, 1, 4, 4), torch.ones(16, 1, 4, 4)])
    prompts = ["a"] * 16 + ["b"] * 16

    def run(folder: Path | None) -> tuple[PromptDenoiser, Any]:
        net = model()
        return net, fit_denoiser(
            net,
            images,
            prompts,
            steps=60,
            batch_size=16,
            lr=0.02,
            references=4,
            ema=0.9,
            checkpoint=folder,
            checkpoint_every=25,
        )  # fmt: skip

    whole, result = run(tmp_path)
    losses = [row["loss"] for row in result.history]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    sorted(tmp_path.glob("step-*.json"))[-1].unlink()
    again, resumed = run(tmp_path)
    assert resumed.resumed_from is not None
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_clipped_step_by_hand():
    weight = nn.Parameter(torch.tensor([0.0, 0.0]))
    weight.grad = torch.tensor([30.0, 40.0])
    optimizer = ClippedAdamW([weight], lr=0.1, max_norm=5.0, weight_decay=0.0, betas=(0.0, 0.999), eps=3.0)
    optimizer.step()
    # the gradient becomes (3, 4); the first step of Adam is lr g / (|g| + eps)
    assert torch.allclose(weight, torch.tensor([-0.1 * 3 / 6, -0.1 * 4 / 7]), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prompts": ["a"]}, "prompts"),
        ({"prompts": ["a", "c"]}, "'c'"),
        ({"prompts": ["a", "a b a"]}, "3 words"),
        ({"images": torch.full((2, 1, 4, 4), 3.0)}, "images"),
        ({"images": torch.zeros(2, 4)}, "images"),
        ({"batch_size": 3}, "batch_size"),
        ({"lr": 0.0}, "lr"),
        ({"references": -1}, "references"),
        ({"null_probability": 2.0}, "null_probability"),
        ({"weighting": "snr"}, "weighting"),
        ({"denoiser": nn.Linear(1, 1)}, "denoiser"),
        ({"max_norm": 0.0}, "max_norm"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], named: str):
    arguments: dict[str, Any] = {
        "denoiser": model(),
        "images": torch.zeros(2, 1, 4, 4),
        "prompts": ["a", "b"],
        "steps": 1,
        "batch_size": 1,
    }
    arguments |= change
    with pytest.raises(InputError, match=named):
        fit_denoiser(arguments.pop("denoiser"), arguments.pop("images"), arguments.pop("prompts"), **arguments)
