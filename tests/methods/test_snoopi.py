"""SNOOPI: the eight invariants of its card, numbers by hand, limit cases, bad input."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tutelage.core.errors import InputError
from tutelage.core.rng import generator, seeded
from tutelage.methods.distill.snoopi import (
    NAG,
    NASA,
    OneStepGenerator,
    Removal,
    RemovalRow,
    SnoopiConfig,
    chosen,
    distill_one_step,
    negative_attention,
    one_step,
    removal_test,
    vsd_gradient,
    vsd_loss,
)
from tutelage.models.diffusion import (
    Condition,
    Fixed,
    PromptDenoiser,
    Uniform,
    WordEncoder,
    cross_attentions,
    noise_schedule,
    small_dit,
    small_unet,
    zero_terminal,
)

SHAPE = (3, 8, 8)


def denoiser(kind: str = "unet", prediction: Any = "eps", schedule: Any = None) -> PromptDenoiser:
    with seeded(0, kind):
        text = WordEncoder(["cat", "dog", "red"], length=3, dim=8)
        net: nn.Module = (
            small_dit(8, text_dim=8, width=16, layers=2)
            if kind == "dit"
            else small_unet(8, text_dim=8, widths=(8, 16), heads=2)
        )
        made = PromptDenoiser(text, net, schedule or noise_schedule(), prediction).eval()
        for parameter in made.parameters():  # untrained nets end in zeros here and there
            with torch.no_grad():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return made


class Says(nn.Module):
    """A denoiser that says one number for the null prompt and another for any other; a prompt is its number."""

    prediction: Any = "eps"

    def __init__(self, **words: float) -> None:
        super().__init__()
        self.schedule, self.words = noise_schedule(), words

    def encode(self, prompts: list[str]) -> Condition:
        values = torch.tensor([self.words[one or "null"] for one in prompts])
        return Condition(values[:, None, None], torch.ones(len(prompts), 1, dtype=torch.bool))

    def denoise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return condition.features.reshape(-1, 1, 1, 1).expand_as(x)


class Gaussian(nn.Module):
    """The exact denoiser of N(mean, exp(log_var)) in one dimension, with the x0 it predicts; both numbers can be learnt."""

    prediction: Any = "x0"

    def __init__(self, mean: float, var: float) -> None:
        super().__init__()
        self.schedule = noise_schedule()
        self.mean, self.log_var = nn.Parameter(torch.tensor(mean)), nn.Parameter(torch.tensor(var).log())

    def encode(self, prompts: list[str]) -> Condition:
        return Condition(torch.zeros(len(prompts), 1, 1), torch.ones(len(prompts), 1, dtype=torch.bool))

    def denoise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        a, s, v = self.schedule.a(t, x), self.schedule.s(t, x), self.log_var.exp()
        return self.mean + a * v * (x - a * self.mean) / (a**2 * v + s**2)


def weights(model: Any) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def distilled(guidance: Any, steps: int = 3, **kwargs: Any) -> Any:
    return distill_one_step(
        denoiser(), ["cat", "dog", "cat red"], SHAPE, steps=steps, batch_size=4, guidance=guidance, seed=3, **kwargs
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- invariants


def test_one_fixed_scale_and_a_range_of_no_width_are_the_same_training_bit_for_bit():
    fixed, ranged = distilled(Fixed(2.5)), distilled(Uniform(2.5, 2.5))
    for a, b in zip(weights(fixed.generator.student), weights(ranged.generator.student), strict=True):
        assert torch.equal(a, b)
    other = distilled(Fixed(1.0))
    assert any(
        not torch.equal(a, b) for a, b in zip(weights(fixed.generator.student), weights(other.generator.student), strict=True)
    )


def test_a_lora_teacher_that_equals_the_teacher_gives_no_gradient_and_the_student_does_not_move():
    teacher = denoiser()
    x0, t = torch.randn(4, *SHAPE, generator=generator(0)), torch.tensor([20, 300, 600, 980])
    noise = torch.randn(x0.shape, generator=generator(1))
    condition = teacher.encode(["cat", "dog", "red", "cat red"])
    g = vsd_gradient(teacher, copy.deepcopy(teacher), x0, t, noise, condition, teacher.encode([""]), torch.rand(4) * 4)
    assert torch.equal(g, torch.zeros_like(g))
    one = distilled(Uniform(), steps=1)  # before its first step the copy is the teacher
    for a, b in zip(weights(one.generator.student), weights(teacher), strict=True):
        assert torch.equal(a, b)


def test_the_gradient_of_the_loss_is_g_over_the_number_of_elements():
    x0 = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    g = torch.randn_like(x0)
    vsd_loss(x0, g).backward()
    assert x0.grad is not None
    assert torch.allclose(x0.grad, g / x0.numel(), rtol=1e-12, atol=1e-14)


def test_the_vsd_gradient_by_hand():
    psi, phi = Says(null=1.0, cat=2.0, dog=-1.0), Says(null=0.25, cat=0.5)
    x0, t = torch.zeros(2, 1, 2, 2), torch.tensor([100, 900])
    cat = Condition(torch.tensor([[[2.0]], [[2.0]]]), torch.ones(2, 1, dtype=torch.bool))
    null = Condition(torch.ones(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))
    noise = torch.randn(x0.shape, generator=generator(0))
    s2 = 1 - psi.schedule.alphas_bar[t].float()[:, None, None, None]

    class Phi(Says):  # its features are halves of the teacher's quarter, so that one Condition serves both
        def denoise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
            return condition.features.reshape(-1, 1, 1, 1).expand_as(x) / 4

    # psi: 1 + 3 (2 - 1) = 4; phi: 0.25 + 3 (0.5 - 0.25) = 1
    g = vsd_gradient(psi, Phi(**phi.words), x0, t, noise, cat, null, 3.0)
    assert torch.allclose(g, 3.0 * s2.expand_as(g), atol=1e-6)
    # k of each sample: 1 -> 2 - 0.5, 0 -> 1 - 0.25
    g = vsd_gradient(psi, Phi(**phi.words), x0, t, noise, cat, null, torch.tensor([1.0, 0.0]))
    assert torch.allclose(g, torch.tensor([1.5, 0.75])[:, None, None, None] * s2.expand_as(g), atol=1e-6)
    # other scales for both, weight 1: 4 against 0.5
    g = vsd_gradient(psi, Phi(**phi.words), x0, t, noise, cat, null, 3.0, adapter_scale=1.0, weight="one")
    assert torch.allclose(g, torch.full_like(g, 3.5), atol=1e-6)
    # a negative prompt stands against the prompt in the frozen teacher only: -1 + 3 (2 + 1) = 8, against 1
    dog = Condition(torch.tensor([[[-1.0]]]), torch.ones(1, 1, dtype=torch.bool))
    g = vsd_gradient(psi, Phi(**phi.words), x0, t, noise, cat, null, 3.0, negative=dog, weight="one")
    assert torch.allclose(g, torch.full_like(g, 7.0), atol=1e-6)


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_nasa_of_strength_0_is_the_plain_generator_and_nag_against_the_prompt_itself_too(kind: str):
    model = denoiser(kind)
    made = OneStepGenerator(model, SHAPE)
    prompts = ["cat", "dog red"]
    plain = made.generate(prompts, seed=1)
    assert torch.equal(made.generate(prompts, negative="red", alpha=0.0, seed=1), plain)
    assert not torch.equal(made.generate(prompts, negative="red", alpha=0.5, seed=1), plain)
    condition = model.encode(prompts)
    z = torch.randn(2, *SHAPE, generator=generator(0))
    with torch.no_grad(), negative_attention(model, condition, condition, NAG()) as both:
        same = one_step(model, z, both)
    with torch.no_grad():
        assert torch.allclose(same, one_step(model, z, condition), atol=1e-4)


def test_nasa_and_nag_by_hand():
    positive, negative = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    assert NASA(0.5)(positive, negative).tolist() == [[[1.0, -0.5]]]
    assert torch.allclose(NASA(0.3)(positive, positive), 0.7 * positive)
    alphas = [NASA(a)(positive, negative) for a in (0.0, 0.4, 0.8)]
    assert torch.allclose(alphas[1], (alphas[0] + alphas[2]) / 2)
    # Zt = (2, -1), |Zt| = 3 and R = 3, held to 2: (4/3, -2/3); half of it and half of (1, 0)
    assert torch.allclose(NAG(phi=1, tau=2, a=0.5)(positive, negative), torch.tensor([[[7 / 6, -1 / 3]]]))
    # in the 2-norm R = sqrt(5), held to 2
    held = torch.tensor([2.0, -1.0]) * 2 / 5**0.5
    assert torch.allclose(NAG(phi=1, tau=2, a=1, norm_p=2)(positive, negative)[0, 0], held)
    assert torch.allclose(NAG(phi=1, tau=9, a=1)(positive, negative)[0, 0], torch.tensor([2.0, -1.0]))
    both = NASA(torch.tensor([0.0, 1.0]))(positive.repeat(2, 1, 1), negative.repeat(2, 1, 1))
    assert both.tolist() == [[[1.0, 0.0]], [[1.0, -1.0]]]


def test_a_layer_with_nasa_is_the_formula_with_each_prompts_mask_and_one_output_projection():
    model = denoiser("unet")
    layer = next(iter(cross_attentions(model).values()))
    g = generator(5)
    x, c = torch.randn(2, 7, layer.to_q.in_features, generator=g), torch.randn(2, 6, layer.to_k.in_features, generator=g)
    mask = torch.tensor([[1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 0]], dtype=torch.bool)
    from tutelage.models.diffusion import TwoPrompts

    got = TwoPrompts(3, NASA(0.7))(layer, x, c, (1 - mask.float())[:, None] * -10_000.0)

    def attention(part: slice) -> Tensor:
        q, k, v = (
            f.unflatten(2, (layer.heads, -1)).transpose(1, 2)
            for f in (layer.to_q(x), layer.to_k(c[:, part]), layer.to_v(c[:, part]))
        )
        scores = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).masked_fill(~mask[:, None, None, part], float("-inf"))
        return (scores.softmax(3) @ v).transpose(1, 2).flatten(2)

    z = attention(slice(0, 3)) - 0.7 * attention(slice(3, 6))
    assert torch.allclose(got, layer.to_out[0](z), atol=1e-5)  # the bias of the projection once


def test_only_cross_attention_is_touched_and_what_was_there_comes_back():
    model = denoiser("unet")
    before = {name: layer.processor for name, layer in cross_attentions(model).items()}
    assert before
    assert all(name.endswith("attn2") for name in before)

    def broken() -> None:
        with negative_attention(model, model.encode(["cat"]), model.encode(["red"]), NASA(1.0)):
            assert all(layer.processor is not before[name] for name, layer in cross_attentions(model).items())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        broken()
    assert all(layer.processor is before[name] for name, layer in cross_attentions(model).items())


def test_the_student_of_a_gaussian_teacher_has_its_mean_and_at_k_1_its_variance():
    teacher = Gaussian(1.5, 0.25)
    config = SnoopiConfig(lr=0.03, lr_lora=0.03, ema=0.98, max_norm=100.0, betas=(0.5, 0.9))
    found = distill_one_step(teacher, ["x"], (1, 1, 1), steps=500, batch_size=256, guidance=Fixed(1.0), config=config, seed=0)
    z = torch.randn(4000, 1, 1, 1, generator=generator(9))
    made = OneStepGenerator(found.generator.student, (1, 1, 1), decode=lambda x: x).generate(["x"] * 4000, noise=z)
    before = OneStepGenerator(teacher, (1, 1, 1), decode=lambda x: x).generate(["x"] * 4000, noise=z)
    assert float(before.std()) < 0.1  # a step of the teacher gives its mean only
    assert float(made.mean()) == pytest.approx(1.5, abs=0.08)
    assert float(made.std()) == pytest.approx(0.5, abs=0.08)
    assert (teacher.mean.item(), teacher.log_var.exp().item()) == pytest.approx((1.5, 0.25))


def test_one_call_of_the_network_a_picture_also_with_a_negative_prompt_and_no_teacher_is_saved(tmp_path: Path):
    found = distilled(Uniform(), steps=2)
    calls = []
    found.generator.student.net.register_forward_hook(lambda *_: calls.append(1))
    for arguments, wanted in (({}, 1), ({"negative": "red"}, 1), ({"negative": "red", "mode": "nag"}, 1),
                              ({"negative": "red", "mode": "output-cfg"}, 2)):  # fmt: skip
        calls.clear()
        found.generator.generate(["cat"] * 3, **arguments)
        assert len(calls) == wanted
    found.generator.save(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "generator.safetensors")
    assert saved.keys() == denoiser().state_dict().keys()  # one network, the student's
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == ["generator.json", "generator.safetensors"]
    again = OneStepGenerator.load(tmp_path / "saved", denoiser())
    assert torch.equal(again.generate(["cat"], seed=4), found.generator.generate(["cat"], seed=4))
    with pytest.raises(InputError, match="student"):
        OneStepGenerator.load(tmp_path / "saved", denoiser(prediction="v"))
    with pytest.raises(InputError, match="folder"):
        OneStepGenerator.load(tmp_path, denoiser())


# ------------------------------------------------------------------------------------------------------------ training


def test_the_teacher_is_not_changed_and_the_student_and_the_lora_teacher_learn_apart():
    teacher = denoiser()
    before = weights(teacher)
    found = distill_one_step(teacher, ["cat", "dog"], SHAPE, steps=3, batch_size=4, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(teacher), strict=True))
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    student = found.generator.student
    assert torch.equal(student.text.table.weight, teacher.text.table.weight)  # prompts mean what they meant
    assert not torch.equal(student.net.unet.conv_out.weight, teacher.net.unet.conv_out.weight)
    assert {"gradient", "loss_lora", "scale"} <= found.training.history[0].keys()


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_a_stopped_distillation_goes_on_to_the_same_student(tmp_path: Path, adapter: Any):
    config = SnoopiConfig(adapter=adapter, rank=2, scaling=4)
    whole = distilled(Uniform(), steps=4, config=config, evaluate_every=2, checkpoint=tmp_path)
    newest = sorted(tmp_path.glob("step-*.json"))[-1]
    assert newest.name == "step-00000004.json"
    newest.unlink()
    resumed = distilled(Uniform(), steps=4, config=config, evaluate_every=2, checkpoint=tmp_path)
    assert resumed.training.resumed_from == 2
    for a, b in zip(weights(whole.generator.student), weights(resumed.generator.student), strict=True):
        assert torch.equal(a, b)


def test_where_the_scale_is_random_and_whether_it_is_shared():
    from tutelage.methods.distill.snoopi.training import OneStep

    def scales(**settings: Any) -> tuple[Tensor, Tensor]:
        model = denoiser()
        one = OneStep(
            model, copy.deepcopy(model), model.encode(["cat"]), model.encode([""]), SHAPE, guidance=Uniform(0.5, 4.0),
            config=SnoopiConfig(**settings),
        )  # fmt: skip
        return one._scales(64, generator(0))

    psi, phi = scales()
    assert torch.equal(psi, phi)
    assert 0.5 <= float(psi.min()) < 1 < 3 < float(psi.max()) <= 4  # a scale below 1 is drawn on purpose
    psi, phi = scales(randomize=("lora",), fixed_scale=3.0)
    assert set(psi.tolist()) == {3.0}
    assert len(set(phi.tolist())) == 64
    psi, phi = scales(share_scale=False)
    assert not torch.equal(psi, phi)
    assert len(set(Uniform(1, 2, per="batch").sample(5, generator(0)).tolist())) == 1


def test_nasa_t_teaches_with_negatives_and_negatives_alone_are_another_training():
    plain = distilled(Uniform(), steps=2)
    alone = distilled(Uniform(), steps=2, negatives=["red"])
    nasa_t = distilled(Uniform(), steps=2, negatives=["red"], nasa_alpha=Uniform(0, 1))
    nothing = distilled(Uniform(), steps=2, negatives=["red"], nasa_alpha=Fixed(0.0))
    final = [weights(one.generator.student) for one in (plain, alone, nasa_t)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert any(not torch.equal(a, b) for a, b in zip(final[i], final[j], strict=True))
    assert nothing.training.steps == 2


def test_an_extra_loss_is_added_and_logged():
    def darker(x0: Tensor, condition: Condition, ctx: Any) -> Tensor:
        return 0.1 * (1 - ctx.progress) * (x0 + 1).square().mean()

    found = distilled(Uniform(), steps=2, extra_loss=darker)
    assert found.training.history[0]["extra_loss"] > found.training.history[0]["loss"] - 1e-3 > 0
    assert found.training.history[0]["loss"] == pytest.approx(found.training.history[0]["extra_loss"], rel=1e-3)  # g is 0 yet


def test_evaluations_see_the_averaged_student():
    seen: list[float] = []

    def evaluate(made: OneStepGenerator) -> dict[str, float]:
        seen.append(float(made.generate(["cat"], seed=0).mean()))
        return {"mean": seen[-1]}

    found = distilled(Uniform(), steps=4, evaluate=evaluate, evaluate_every=2)
    assert [row["mean"] for row in found.training.epochs] == seen
    assert float(found.generator.generate(["cat"], seed=0).mean()) == pytest.approx(seen[-1], abs=1e-6)


# ------------------------------------------------------------------------------------------------------- negatives, bad input


def test_the_removal_test_counts_pairs_and_the_choice_keeps_to_the_allowed_loss():
    made = OneStepGenerator(denoiser(), SHAPE)

    def shows(pictures: Tensor, words: Any) -> Tensor:
        bright = pictures.flatten(1).mean(1) > 0.5
        return torch.tensor([bool(b) if word == "red" else True for b, word in zip(bright, words, strict=True)])

    rows = removal_test(
        made, [Removal("cat", "red"), Removal("dog", "red")], shows, alphas=(0.0, 1.0), modes=("nasa", "embedding"), each=4
    )
    assert [(row.mode, row.alpha) for row in rows] == [("nasa", 0.0), ("nasa", 1.0), ("embedding", 0.0), ("embedding", 1.0)]
    assert rows[0].suppression.before == rows[0].suppression.after
    assert rows[0].suppression.n == 8
    assert rows[0].lost == 0


def test_the_strength_is_the_one_that_leaves_least_at_the_allowed_loss():
    from tutelage.auditing.generated import suppression

    def row(alpha: float, left: int, right: float) -> RemovalRow:
        seen = torch.arange(100) < left
        return RemovalRow("nasa", alpha, suppression(torch.ones(100, dtype=torch.bool), seen), 1.0, right)

    rows = [row(0.1, 40, 1.0), row(0.5, 10, 0.98), row(0.8, 10, 0.97), row(1.5, 0, 0.8)]
    assert chosen(rows, "nasa").alpha == 0.5
    assert chosen(rows, "nasa", allowed_loss=0.5).alpha == 1.5
    assert chosen([row(1.0, 0, 0.5), row(2.0, 0, 0.4)], "nasa").alpha == 1.0
    with pytest.raises(InputError, match="mode"):
        chosen(rows, "nag")


def test_a_negative_prompt_that_does_nothing_is_refused():
    made = OneStepGenerator(denoiser(), SHAPE)
    with pytest.raises(InputError, match="negative"):
        made.generate(["cat"], negative="")
    with pytest.raises(InputError, match="negative"):
        made.generate(["cat"], negative="cat", mode="nag")
    with pytest.raises(InputError, match="negative"):
        OneStepGenerator(Says(null=0.0, cat=1.0, red=2.0), SHAPE).generate(["cat"], negative="red")
    with (
        pytest.raises(InputError, match="net"),
        negative_attention(nn.Linear(1, 1), *[denoiser().encode(["cat"])] * 2, NASA(1.0)),
    ):
        pass
    model = denoiser()
    with pytest.raises(InputError, match="net"), negative_attention(model, *[model.encode(["cat"])] * 2, NASA(1.0)):
        pass  # nobody asked the network
    with pytest.raises(InputError, match="negatives"):
        distilled(Uniform(), negatives=["red", ""])


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: distilled(Uniform(), nasa_alpha=Uniform(0, 1)), "nasa_alpha"),
        (lambda: distilled(3.0), "guidance"),
        (lambda: distilled(Uniform(), negatives=["purple"]), "purple"),
        (lambda: distilled(Uniform(), negatives=["red"], nasa_alpha=Uniform(0, 99)), "alpha"),
        (lambda: distilled(Uniform(), steps=0), "steps"),
        (lambda: distilled(Uniform(), extra_loss=1), "extra_loss"),
        (lambda: distill_one_step(denoiser(), ["cat dog red"], SHAPE, steps=1), "3 words"),
        (lambda: distill_one_step(denoiser(), [], SHAPE, steps=1), "prompts"),
        (lambda: distill_one_step(nn.Linear(1, 1), ["cat"], SHAPE, steps=1), "teacher"),  # type: ignore[arg-type]
        (lambda: distill_one_step(denoiser(schedule=zero_terminal(noise_schedule())), ["cat"], SHAPE, steps=1), "teacher"),
        (lambda: OneStepGenerator(denoiser(schedule=noise_schedule("cosine")), SHAPE), "teacher"),
        (lambda: OneStepGenerator(denoiser(), (8, 8)), "shape"),
        (lambda: OneStepGenerator(denoiser(), SHAPE).generate(["cat"], noise=torch.zeros(2, *SHAPE)), "noise"),
        (lambda: OneStepGenerator(denoiser(), SHAPE).generate(["cat"], negative="red", mode="cfg"), "mode"),  # type: ignore[arg-type]
        (lambda: OneStepGenerator(denoiser(), SHAPE).generate(["cat"], negative="red", alpha=-0.1), "alpha"),
        (lambda: OneStepGenerator(denoiser(), SHAPE).generate(["cat"], negative=["red", "dog"]), "condition"),
        (lambda: NASA(11.0), "alpha"),
        (lambda: NAG(tau=0.5), "tau"),
        (lambda: NAG(norm_p=3), "norm_p"),  # type: ignore[arg-type]
        (lambda: SnoopiConfig(t_range=(0.9, 0.1)), "t_range"),
        (lambda: SnoopiConfig(randomize=()), "randomize"),
        (lambda: SnoopiConfig(fixed_scale=-1), "k"),
        (lambda: removal_test(OneStepGenerator(denoiser(), SHAPE), [], lambda p, w: p), "removals"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call: Any, named: str):
    with pytest.raises(InputError, match=named):
        call()


@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_other_predictions_take_schedules_that_end_in_noise(prediction: Any):
    made = OneStepGenerator(denoiser(prediction=prediction, schedule=zero_terminal(noise_schedule())), SHAPE)
    pictures = made.generate(["cat"] * 2, negative="red")
    assert pictures.shape == (2, *SHAPE)
    assert bool(torch.isfinite(pictures).all())
