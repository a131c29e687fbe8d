"""Schedules, predictions, guidance, prompts, samplers, processors, adapters of small diffusion models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.core.rng import generator, seeded
from tutelage.models.diffusion import (
    ClassifierFree,
    Condition,
    Fixed,
    NoiseSchedule,
    PromptDenoiser,
    Uniform,
    WordEncoder,
    adapter_parameters,
    cfg,
    full_copy,
    lora_copy,
    noise_schedule,
    sample,
    side_by_side,
    small_dit,
    small_unet,
    to_image,
    to_model,
    zero_terminal,
)


def model(kind: str = "unet", prediction: Any = "eps") -> PromptDenoiser:
    with seeded(0, kind):
        net: nn.Module = (
            small_unet(8, text_dim=8, widths=(8, 16), heads=2)
            if kind == "unet"
            else small_dit(8, text_dim=8, width=16, layers=1)
        )
        return PromptDenoiser(WordEncoder(["cat", "dog"], 3, 8), net, noise_schedule(), prediction).eval()


# ------------------------------------------------------------------------------------------------------------- schedule


def test_the_schedules_end_where_they_are_known_to():
    ends = {shape: noise_schedule(shape).last_a for shape in ("linear", "scaled-linear", "cosine")}
    assert ends["linear"] == pytest.approx(0.00635, abs=1e-4)
    assert ends["scaled-linear"] ** 2 == pytest.approx(0.0047, abs=1e-4)  # Stable Diffusion's, as the card read it
    assert ends["cosine"] < 1e-3
    stretched = zero_terminal(noise_schedule())
    assert stretched.last_a == 0
    assert float(stretched.alphas_bar[0]) == pytest.approx(float(noise_schedule().alphas_bar[0]))


def test_a_level_by_hand():
    schedule = NoiseSchedule(torch.tensor([0.64, 0.36]))  # a = 0.8, 0.6; s = 0.6, 0.8
    x0, eps, t = torch.ones(2, 1, 1, 1), torch.full((2, 1, 1, 1), 2.0), torch.tensor([0, 1])
    x = schedule.add_noise(x0, eps, t)
    assert torch.allclose(x.flatten(), torch.tensor([0.8 + 1.2, 0.6 + 1.6]))
    assert torch.allclose(schedule.target("v", x0, eps, t).flatten(), torch.tensor([1.6 - 0.6, 1.2 - 0.8]))


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_x0_to_eps_to_x0_round_trips(prediction: Any):
    schedule = noise_schedule()
    g = generator(0)
    x0, eps = torch.randn(50, 3, 2, 2, generator=g), torch.randn(50, 3, 2, 2, generator=g)
    t = torch.randint(1000, (50,), generator=g)
    x = schedule.add_noise(x0, eps, t)
    output = schedule.target(prediction, x0, eps, t)
    found = schedule.x0_eps(prediction, output, x, t)
    assert torch.allclose(found[0], x0, atol=2e-4)
    assert torch.allclose(found[1], eps, atol=2e-4)
    assert torch.allclose(schedule.from_eps(prediction, found[1], x, t), output, atol=2e-3)


def test_pixels_go_to_the_models_range_and_back():
    x = torch.rand(2, 3, 4, 4, generator=generator(0))
    assert torch.allclose(to_image(to_model(x)), x, atol=1e-6)
    assert to_image(torch.tensor([-3.0, 3.0])).tolist() == [0.0, 1.0]


# ------------------------------------------------------------------------------------------------------------- guidance


def test_guidance_has_its_limits_exactly():
    g = generator(1)
    c, u = torch.randn(6, 3, 2, 2, generator=g), torch.randn(6, 3, 2, 2, generator=g)
    for k in (0.0, 0.5, 1.0, 3.0, torch.linspace(0, 7, 6)):
        assert torch.equal(cfg(c, c, k), c)
    assert torch.equal(cfg(c, u, 1.0), c)
    assert torch.equal(cfg(c, u, 0.0), u)
    assert torch.allclose(cfg(c, u, 3.0), u + 3 * (c - u), atol=1e-5)
    each = cfg(c, u, torch.arange(6.0))
    assert torch.allclose(each[4], u[4] + 4 * (c[4] - u[4]), atol=1e-5)  # one k a sample


def test_guidance_against_the_null_prompt_as_negative_is_plain_guidance():
    denoiser = model()
    x, t = torch.randn(2, 3, 8, 8, generator=generator(0)), torch.tensor([10, 900])
    condition = denoiser.encode(["cat", "dog"])
    with torch.no_grad():
        plain = ClassifierFree(3.0)(denoiser, x, t, condition)
        assert torch.equal(ClassifierFree(3.0, negative="")(denoiser, x, t, condition), plain)
        assert not torch.equal(ClassifierFree(3.0, negative="dog")(denoiser, x, t, condition), plain)
        assert torch.equal(ClassifierFree(1.0)(denoiser, x, t, condition), denoiser.denoise(x, t, condition))


def test_guidance_of_eps_and_of_v_is_the_same_at_one_level():
    schedule = noise_schedule()
    g = generator(2)
    x, c, u = (torch.randn(4, 1, 2, 2, generator=g) for _ in range(3))
    t = torch.tensor([100, 300, 500, 700])
    as_v = [schedule.from_eps("v", one, x, t) for one in (c, u)]
    assert torch.allclose(schedule.x0_eps("v", cfg(*as_v, 2.5), x, t)[1], cfg(c, u, 2.5), atol=1e-4)


def test_scales_lie_where_they_are_drawn():
    drawn = Uniform(0.5, 4.0).sample(2000, generator(0))
    assert 0.5 <= float(drawn.min()) < 0.52 < 3.98 < float(drawn.max()) <= 4.0
    assert float(drawn.mean()) == pytest.approx(2.25, abs=0.08)
    assert Fixed(4.5).sample(3, generator(0)).tolist() == [4.5] * 3


# -------------------------------------------------------------------------------------------------------------- prompts


def test_prompts_are_words_after_a_start_token_in_any_order():
    text = WordEncoder(["cat", "dog", "red"], length=3, dim=4)
    ids = text.tokenize(["dog red", "", "cat"])
    assert ids.tolist() == [[1, 3, 4], [1, 0, 0], [1, 2, 0]]
    assert text.mask(ids).sum(1).tolist() == [3, 1, 2]
    with pytest.raises(InputError, match="'bird'"):
        text.tokenize(["bird"])
    with pytest.raises(InputError, match="3 words"):
        text.tokenize(["cat dog red"])
    for prompts in ("cat", [], [1]):
        with pytest.raises(InputError, match="prompts"):
            text.tokenize(prompts)  # type: ignore[arg-type]


def test_conditions_are_compared_by_what_is_looked_at():
    denoiser = model()
    cat, dog = denoiser.encode(["cat"]), denoiser.encode(["dog"])
    assert cat.same(denoiser.encode(["cat", "cat"]))
    assert not cat.same(dog)
    assert not cat.same(denoiser.encode([""]))
    assert len(side_by_side(denoiser.encode(["cat", "dog"]), dog).features[0]) == 6
    with pytest.raises(InputError, match="condition"):
        denoiser.encode(["cat", "dog"]).expand(3)
    with pytest.raises(InputError, match="condition"):
        side_by_side(cat, Condition(torch.zeros(1, 3, 5), torch.ones(1, 3, dtype=torch.bool)))


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_padding_is_not_looked_at_and_words_are(kind: str):
    denoiser = model(kind)
    with torch.no_grad():
        for parameter in denoiser.net.parameters():
            parameter.add_(0.05 * torch.ones_like(parameter))
        x, t = torch.randn(1, 3, 8, 8, generator=generator(0)), torch.tensor([500])
        condition = denoiser.encode(["cat"])
        features = condition.features.clone()
        features[:, 2] = 9.0  # a padded place
        said = denoiser.denoise(x, t, condition)
        assert torch.allclose(denoiser.denoise(x, t, Condition(features, condition.mask)), said, atol=1e-6)
        features[:, 1] = 9.0
        assert not torch.allclose(denoiser.denoise(x, t, Condition(features, condition.mask)), said, atol=1e-4)
    assert said.shape == x.shape


# ------------------------------------------------------------------------------------------------------------- samplers


class Exact(nn.Module):
    """The denoiser of N(mean, var) in every pixel: what samplers must reproduce."""

    def __init__(self, prediction: Any, mean: float = 0.4, var: float = 0.09) -> None:
        super().__init__()
        self.schedule, self.prediction, self.mean, self.var = noise_schedule(), prediction, mean, var

    def encode(self, prompts: Any) -> Condition:
        return Condition(torch.zeros(len(prompts), 1, 1), torch.ones(len(prompts), 1, dtype=torch.bool))

    def denoise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        a, s = self.schedule.a(t, x), self.schedule.s(t, x)
        x0 = self.mean + a * self.var * (x - a * self.mean) / (a**2 * self.var + s**2)
        return self.schedule.target(self.prediction, x0, (x - a * x0) / s, t)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 100), ("ddpm", 250), ("dpm-solver", 100)])
def test_samplers_draw_the_distribution_of_an_exact_denoiser(sampler: Any, steps: int, prediction: Any):
    def draw() -> Tensor:
        how: dict[str, Any] = {"steps": steps, "sampler": sampler, "clip": False, "decode": lambda x: x}
        return sample(Exact(prediction), [""] * 40, (1, 8, 8), noise=generator(0), **how)

    made = draw()
    assert float(made.mean()) == pytest.approx(0.4, abs=0.04)
    assert float(made.std()) == pytest.approx(0.3, abs=0.04)
    assert torch.equal(draw(), made)


def test_a_clipped_picture_keeps_the_noise_of_its_level():
    """Guidance drives pictures out of [-1, 1]; what is cut off there must not be left as noise in x_t."""
    wild = Exact("eps", mean=3.0, var=0.01)
    levels: list[float] = []
    denoise = wild.denoise

    def watched(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        a, s = wild.schedule.a(t, x), wild.schedule.s(t, x)
        levels.append(float(((x - a) / s).square().mean().sqrt()))  # all that is seen is 1 and noise
        return denoise(x, t, condition)

    wild.denoise = watched  # type: ignore[method-assign]
    made = sample(wild, [""] * 8, (1, 8, 8), noise=generator(0), steps=50)
    assert torch.equal(made, torch.ones_like(made))
    assert levels == pytest.approx([levels[0]] * 50, rel=0.05)


def test_samplers_refuse_what_they_cannot_do():
    with pytest.raises(InputError, match="steps"):
        sample(Exact("eps"), [""], (1, 2, 2), noise=generator(0), steps=2000)
    with pytest.raises(InputError, match="shape"):
        sample(Exact("eps"), [""], (2, 2), noise=generator(0))
    with pytest.raises(InputError, match="sampler"):
        sample(Exact("eps"), [""], (1, 2, 2), noise=generator(0), sampler="euler")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- adapters


def test_a_lora_copy_shares_the_weights_learns_its_own_and_leaves_the_net_alone():
    denoiser = model()
    for parameter in denoiser.parameters():
        parameter.requires_grad_(False)
    twin = lora_copy(denoiser, rank=2, scaling=4)
    x, t = torch.randn(2, 3, 8, 8, generator=generator(0)), torch.tensor([10, 900])
    condition = denoiser.encode(["cat", "dog"])
    before = denoiser.denoise(x, t, condition)
    assert torch.equal(twin.denoise(x, t, condition), before)  # B starts at 0
    learnt = adapter_parameters(twin)
    assert sum(p.numel() for p in learnt) < 0.2 * sum(p.numel() for p in denoiser.parameters())
    assert all(p.requires_grad for p in learnt)
    with torch.no_grad():
        for parameter in learnt:
            parameter.add_(0.3)
    assert not torch.allclose(twin.denoise(x, t, condition), before)
    assert torch.equal(denoiser.denoise(x, t, condition), before)  # the teacher is never asked with the adapters on
    shared = {p.data_ptr() for p in denoiser.parameters()}
    assert all(p.data_ptr() in shared for name, p in twin.named_parameters() if "lora_" not in name)
    whole = full_copy(denoiser)
    assert not shared & {p.data_ptr() for p in whole.parameters()}
    assert len(adapter_parameters(whole)) == len(list(denoiser.parameters()))
    with pytest.raises(InputError, match="targets"):
        lora_copy(denoiser, targets=("q_proj",))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: small_unet(10, widths=(8, 16)), "size"),
        (lambda: small_unet(8, widths=(8, 12)), "widths"),
        (lambda: small_unet(8, heads=0), "heads"),
        (lambda: small_dit(9), "size"),
        (lambda: small_dit(8, width=20), "width"),
        (lambda: noise_schedule("quadratic"), "shape"),  # type: ignore[arg-type]
        (lambda: noise_schedule(steps=3), "steps"),
        (lambda: NoiseSchedule(torch.tensor([0.1, 0.9])), "alphas_bar"),
        (lambda: NoiseSchedule(torch.tensor([0.9, float("nan")])), "alphas_bar"),
        (lambda: noise_schedule().check_level(torch.tensor([1000])), "t"),
        (lambda: Fixed(-1.0), "k"),
        (lambda: Uniform(4.0, 0.5), "k_min"),
        (lambda: Uniform(0.5, float("inf")), "k_max"),
        (lambda: Uniform(0.5, 4.0, per="pixel"), "per"),
        (lambda: ClassifierFree(-2.0), "scale"),
        (lambda: WordEncoder(["a", "a"]), "words"),
        (lambda: WordEncoder(["a b"]), "words"),
        (lambda: WordEncoder(["a"], length=1), "length"),
        (lambda: PromptDenoiser(nn.Linear(1, 1), nn.Linear(1, 1), noise_schedule()), "text"),
        (lambda: PromptDenoiser(WordEncoder(["a"]), nn.Linear(1, 1), noise_schedule(), "s"), "prediction"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_bad_input_is_named(call: Any, named: str):
    with pytest.raises(InputError, match=named):
        call()
