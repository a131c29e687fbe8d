"""The attribute editor against its card: invariants, values by hand, limit cases, refusals."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tutelage.core.errors import InputError, SplitError
from tutelage.data.cutouts import CutoutSet, Scene
from tutelage.data.guard import training_only
from tutelage.data.photographs import sample_photograph
from tutelage.threats.attributes import (
    IMAGENET_E,
    AttributeEditor,
    DiffusionBackground,
    DirectBackground,
    Edit,
    Placing,
    background_complexity,
    emoji_pictures,
    placed,
)
from tutelage.threats.attributes.diffusion import linear_alphas_bar
from tutelage.threats.attributes.geometry import box_of, rotated, turned


@pytest.fixture(scope="module")
def pictures() -> CutoutSet:
    """32 emoji before a photograph."""
    return emoji_pictures(32, [sample_photograph("flower")], split="test", size=40, seed=3)


def layer(height: int = 12, width: int = 12, box: tuple[int, int, int, int] = (3, 2, 4, 5)) -> Tensor:
    """A layer of random colours with alpha 1 in a box (top, left, height, width)."""
    out = torch.zeros(4, height, width)
    top, left, h, w = box
    out[:3, top : top + h, left : left + w] = torch.rand(3, h, w, generator=torch.Generator().manual_seed(1))
    out[3, top : top + h, left : left + w] = 1
    return out


def one(drawn: Tensor, background: float | Tensor = 0.5, labels: Tensor | None = None) -> CutoutSet:
    """Layers (N, 4, H, W) before a grey, as a set of pictures of two classes."""
    n, _, h, w = drawn.shape
    behind = background if isinstance(background, Tensor) else torch.full((n, 3, h, w), background)
    straight = torch.cat([torch.where(drawn[:, 3:] > 0, drawn[:, :3] / drawn[:, 3:].clamp_min(1e-6), 0), drawn[:, 3:]], 1)
    return CutoutSet.on(straight.clamp(0, 1), behind, torch.arange(n) % 2 if labels is None else labels, ("a", "b"))


class Linear(nn.Module):
    """Logits that are a fixed linear function of the picture."""

    def __init__(self, size: int = 40, classes: int = 7) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(torch.randn(3 * size * size, classes, generator=g) / size)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


# C: invariant 5 and values by hand


def test_complexity_by_hand() -> None:
    for c in (0.0, 0.25, 1.0):
        assert float(background_complexity(torch.full((1, 3, 6, 10), c))) == pytest.approx(c, abs=1e-6)
    # one bright pixel of 2 x 2: all four frequencies have amplitude 1
    point = torch.zeros(1, 1, 2, 2)
    point[0, 0, 0, 1] = 1
    assert float(background_complexity(point)) == pytest.approx(1.0)
    # left half 1, right half 0, on 2 x 2: amplitudes 2, 2, 0, 0
    half = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    assert float(background_complexity(half)) == pytest.approx(1.0)
    checks = (torch.arange(64).reshape(1, 1, 8, 8) // 8 + torch.arange(8)) % 2
    assert float(background_complexity(checks.float())) == pytest.approx(1.0)  # only the mean, 32, and the highest, 32
    noise = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert float(background_complexity(noise)) > 2


# invariants 1 to 3: backgrounds


def test_nothing_to_do_changes_nothing(pictures: CutoutSet) -> None:
    index = torch.arange(len(pictures))
    before = pictures[index][0].image
    for editor in (DirectBackground(steps=0), DirectBackground()):
        assert torch.equal(AttributeEditor(editor).edit(pictures, Edit("background", 0.0)).image, before)
    assert torch.equal(AttributeEditor(DirectBackground(steps=0)).edit(pictures, Edit("background", 20.0)).image, before)
    never = DiffusionBackground(lambda x, t: x, steps=0)
    assert torch.equal(AttributeEditor(never).edit(pictures, Edit("background", 20.0)).image, before)
    for nothing in (Edit("direction", 0.0), Edit("direction", 360.0), Edit("direction", -720.0)):
        assert torch.equal(AttributeEditor().edit(pictures, nothing).image, before)


def test_the_object_stays_in_every_background_edit(pictures: CutoutSet) -> None:
    model = Linear()
    scene, _ = pictures[torch.arange(len(pictures))]
    solid = (scene.alpha == 1).expand_as(scene.object)
    for edit in IMAGENET_E:
        if edit.attribute == "background":
            found = AttributeEditor().edit(pictures, edit, surrogate=model)
            assert float((found.image - scene.object)[solid].abs().max()) < 1e-6, edit
            assert torch.equal(found.mask, scene.alpha)
            assert bool(found.ok.all())
            assert float((found.image - scene.image).abs().max()) > 0.01, edit
            assert float(found.image.min()) >= 0
            assert float(found.image.max()) <= 1


def test_lambda_orders_complexity_strictly(pictures: CutoutSet) -> None:
    values = [
        background_complexity(AttributeEditor().edit(pictures, Edit("background", v)).image)
        for v in (-20.0, -5.0, 0.0, 5.0, 20.0)
    ]
    for lower, higher in pairwise(values):
        assert bool((lower < higher).all())


def test_a_flat_background_is_as_smooth_as_it_gets() -> None:
    """A step that would make it busier is taken back: the sign of lambda is kept even where nothing can be gained."""
    flat = one(torch.cat([torch.full((1, 3, 8, 8), 0.5), torch.eye(8)[None, None]], 1), 0.5)
    found = AttributeEditor().edit(flat, Edit("background", -20.0))
    assert float(background_complexity(found.image)) <= 0.5 + 1e-6


def test_the_adversarial_background_raises_the_loss(pictures: CutoutSet) -> None:
    model = Linear()
    busy = AttributeEditor().edit(pictures, Edit("background", 20.0)).image
    hostile = AttributeEditor().edit(pictures, Edit("adversarial-background", 20.0), surrogate=model).image
    scene, y = pictures[torch.arange(len(pictures))]
    loss = [nn.functional.cross_entropy(model(x), y, reduction="none").detach() for x in (scene.image, busy, hostile)]
    assert bool((loss[2] > loss[0]).all())
    assert float(loss[2].mean()) > float(loss[1].mean())
    assert model.training
    assert model.weight.requires_grad
    assert model.weight.grad is None


def test_a_random_background_is_one_of_another_class(pictures: CutoutSet) -> None:
    found = AttributeEditor().edit(pictures, Edit("random-background"))
    scene, labels = pictures[torch.arange(len(pictures))]
    for i in range(len(pictures)):
        clear = (scene.alpha[i] == 0).expand_as(scene.object[i])
        same = [j for j in range(len(pictures)) if torch.equal(scene.background[j][clear], found.image[i][clear])]
        assert len(same) == 1
        assert labels[same[0]] != labels[i]
    one_class = pictures.take((pictures.labels == pictures.labels[0]).nonzero().flatten())
    with pytest.raises(InputError, match=r"^data: got one class"):
        AttributeEditor().edit(one_class, Edit("random-background"))
    shared = CutoutSet.on(torch.rand(2, 4, 8, 8), torch.rand(3, 8, 8), torch.tensor([0, 1]), ("a", "b"))
    with pytest.raises(InputError, match=r"^backgrounds: got one for all"):
        AttributeEditor().edit(shared, Edit("random-background"))


# invariant 4: sizes


@pytest.mark.parametrize("rate", [0.3, 0.1, 0.08, 0.05])
def test_sizes_are_met_or_refused(pictures: CutoutSet, rate: float) -> None:
    found = AttributeEditor().edit(pictures, Edit("size", rate))
    assert bool(((found.rate - rate).abs() <= 0.015 + 1e-6)[found.ok].all())
    assert float(found.ok.float().mean()) > 0.9
    torch.testing.assert_close(found.rate, found.mask.flatten(1).mean(1))
    scene, _ = pictures[torch.arange(len(pictures))]
    clear = (found.mask == 0).expand_as(found.image)
    assert torch.equal(found.image[clear], scene.background[clear])


def test_a_size_by_hand() -> None:
    # 8 x 8 pixels of 32 x 32 are 1/16; to 1/4 it must grow to 16 x 16 about (12, 12), so to rows and columns 4 ... 19
    found = AttributeEditor().edit(one(layer(32, 32, (8, 8, 8, 8))[None]), Edit("size", 0.25))
    assert box_of(found.mask[0]) == (4, 4, 16, 16)
    assert float(found.rate) == 0.25
    # in the corner it cannot grow about its middle: it is moved into the frame
    corner = AttributeEditor().edit(one(layer(32, 32, (0, 24, 8, 8))[None]), Edit("size", 0.25))
    assert box_of(corner.mask[0]) == (0, 16, 16, 16)
    # within the tolerance nothing is done
    near = AttributeEditor().edit(one(layer(32, 32, (8, 8, 8, 8))[None]), Edit("size", 0.07))
    assert box_of(near.mask[0]) == (8, 8, 8, 8)


def test_full_size_and_what_is_more() -> None:
    wide = one(layer(32, 32, (10, 12, 4, 8))[None])  # twice as wide as high
    full = AttributeEditor().edit(wide, Edit("size"))
    assert bool(full.ok)
    assert box_of(full.mask[0]) == (4, 0, 16, 32)  # 4 times; the middle row was 12
    more = AttributeEditor().edit(wide, Edit("size", 0.9))
    assert not bool(more.ok)
    assert box_of(more.mask[0]) == box_of(full.mask[0])
    # what fills the frame stays as it is
    assert torch.equal(AttributeEditor().edit(one(full.image.new_ones(1, 4, 8, 8)), Edit("size")).mask, torch.ones(1, 1, 8, 8))


def test_edges_keep_the_colour_of_the_object() -> None:
    red = layer(32, 32, (8, 8, 16, 16))
    red[:3] = torch.tensor([1.0, 0, 0])[:, None, None] * red[3]
    found = AttributeEditor().edit(one(red[None], 1.0), Edit("size", 0.08))
    assert float(found.image[0, 0].min()) == pytest.approx(1.0, abs=1e-5)  # red on white: no pixel is dark in red


# invariants 6 and 7: position and direction


def test_a_move_keeps_every_pixel(pictures: CutoutSet) -> None:
    found = AttributeEditor().edit(pictures, Edit("position"))
    scene, _ = pictures[torch.arange(len(pictures))]
    moves = 0
    for i in range(len(pictures)):
        top, left, h, w = box_of(torch.cat([scene.object[i], scene.alpha[i]]))
        new_top, new_left, new_h, new_w = box_of(found.mask[i])
        assert (new_h, new_w) == (h, w)
        before = scene.alpha[i, :, top : top + h, left : left + w]
        assert torch.equal(found.mask[i, :, new_top : new_top + h, new_left : new_left + w], before)
        solid = (before == 1).expand(3, -1, -1)
        colours = scene.object[i, :, top : top + h, left : left + w]
        assert torch.equal(found.image[i, :, new_top : new_top + h, new_left : new_left + w][solid], colours[solid])
        moves += (new_top, new_left) != (top, left)
    assert moves > 16
    # the sum of the same numbers in another order
    torch.testing.assert_close(found.rate, scene.rate, atol=1e-6, rtol=0)


def test_places_are_uniform() -> None:
    many = one(layer(8, 8, (0, 0, 6, 7))[None].expand(900, -1, -1, -1))  # 3 x 2 places
    found = AttributeEditor().edit(many, Edit("position"))
    places = [box_of(mask)[:2] for mask in found.mask]
    counts = [places.count((y, x)) for y in range(3) for x in range(2)]
    assert sum(counts) == 900
    assert max(abs(c - 150) for c in counts) < 4 * math.sqrt(150)


def test_what_fills_the_frame_has_no_other_place() -> None:
    assert not bool(AttributeEditor().edit(one(torch.rand(1, 4, 8, 8)), Edit("position")).ok)
    row = AttributeEditor().edit(one(layer(8, 8, (2, 0, 3, 8))[None]), Edit("position"))
    assert bool(row.ok)
    assert box_of(row.mask[0])[1] == 0


@pytest.mark.parametrize("quarters", [1, 2, 3, -1])
def test_quarter_turns_are_exact(quarters: int) -> None:
    square = layer(12, 12, (3, 3, 6, 6))
    found = AttributeEditor().edit(one(square[None], 0.0), Edit("direction", 90.0 * quarters))
    torch.testing.assert_close(found.image[0], torch.rot90(square[:3], quarters, (1, 2)), atol=1e-6, rtol=0)
    assert torch.equal(found.mask[0], torch.rot90(square[3:], quarters, (1, 2)))


def test_other_angles_turn_the_same_way() -> None:
    bar = layer(41, 41, (19, 10, 3, 21))
    almost, exact = turned(bar, 89.999), turned(bar, 90)
    room = (almost.shape[1] - exact.shape[1]) // 2
    torch.testing.assert_close(almost[:, room:-room, room:-room], exact, atol=0.01, rtol=0)
    # 45 degrees counter-clockwise: from lower left to upper right
    at, ok = rotated(bar, 45)
    assert ok
    assert float(at[3, 14, 26]) > 0.9
    assert float(at[3, 26, 14]) > 0.9
    assert float(at[3, 14, 14]) == 0
    # area is kept, and a turn there and back leaves little behind
    assert float(at[3].sum()) == pytest.approx(63, abs=2)
    back, _ = rotated(bar, 30, back=True)
    assert float((back - bar).abs().mean()) < 0.02


def test_what_the_frame_cuts_away_is_told() -> None:
    plank = one(layer(20, 40, (8, 2, 4, 36))[None])  # turned upright it is 36 high, of a frame of 20
    found = AttributeEditor().edit(plank, Edit("direction", 90.0))
    assert not bool(found.ok)
    inside = AttributeEditor().edit(one(layer(40, 40, (36, 2, 4, 36))[None]), Edit("direction", 90.0))
    assert bool(inside.ok)  # moved into the frame
    assert float(inside.rate) == pytest.approx(144 / 1600)


def test_random_angles_stay_in_their_range(pictures: CutoutSet) -> None:
    found = AttributeEditor().edit(pictures, Edit("direction"))
    assert float(found.value.abs().max()) <= 45
    assert float(found.value.min()) < -10
    assert float(found.value.max()) > 10


# seeds, batches, what is handed back


def test_draws_depend_on_seed_and_place_only(pictures: CutoutSet) -> None:
    for edit in (Edit("position"), Edit("direction"), Edit("random-background"), Edit("inversion")):
        whole = AttributeEditor().edit(pictures, edit).image
        assert torch.equal(whole, AttributeEditor().edit(pictures, edit, batch_size=5).image), edit
        assert not torch.equal(whole, AttributeEditor(seed=1).edit(pictures, edit).image), edit


def test_the_inversion_costs_little_and_something(pictures: CutoutSet) -> None:
    found = AttributeEditor().edit(pictures, Edit("inversion"))
    change = (found.image - pictures[torch.arange(len(pictures))][0].image).abs().flatten(1).mean(1)
    assert 0.0005 < float(change.mean()) < 0.03
    assert bool(found.ok.all())


def test_test_pictures_are_not_edited_inside_a_fit(pictures: CutoutSet) -> None:
    with training_only(), pytest.raises(SplitError):
        AttributeEditor().edit(pictures, Edit("size"))


def test_names_of_edits() -> None:
    assert [str(edit) for edit in IMAGENET_E] == [
        "inversion", "background-20", "background+20", "background+20-adversarial", "background-random", "size-full",
        "size-10-percent", "size-8-percent", "size-5-percent", "position", "direction",
    ]  # fmt: skip
    assert str(Edit("direction", 30.0)) == "direction+30"
    assert [edit.attribute for edit in IMAGENET_E].count("background") == 4


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("colour", None, r"^kind: got colour, wanted one of inversion"),
        ("size", 0.0, r"^value: got 0.0, wanted a share of the frame"),
        ("size", 1.5, r"^value: got 1.5"),
        ("background", None, r"^value: got None, wanted lambda"),
        ("background", float("nan"), r"^value"),
        ("position", 3.0, r"^value: got 3.0, wanted none for position"),
        ("direction", "left", r"^value: got left, wanted degrees"),
    ],
)
def test_edits_that_are_none(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Edit(kind, value)


def test_other_refusals(pictures: CutoutSet) -> None:
    with pytest.raises(InputError, match=r"^surrogate: got None, wanted a classifier"):
        AttributeEditor().edit(pictures, Edit("adversarial-background", 20.0))
    with pytest.raises(InputError, match=r"^edit: got size"):
        AttributeEditor().edit(pictures, "size")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^batch_size"):
        AttributeEditor().edit(pictures, Edit("size"), batch_size=0)
    with pytest.raises(InputError, match=r"^length"):
        DirectBackground(length=0.0)
    with pytest.raises(InputError, match=r"^steps"):
        DirectBackground(steps=-1)


# New pictures


def test_new_pictures_have_what_was_asked_for() -> None:
    low_to_middle = emoji_pictures(60, [sample_photograph("china")], split="validation", size=32, seed=1)
    rates = low_to_middle.alpha.float().div(255).flatten(1).mean(1)
    reached = (rates > 0.25 - 0.016) & (rates < 0.45 + 0.016)
    assert float(reached.float().mean()) > 0.85  # thin ones cannot cover as much of a frame
    assert float(rates.max()) < 0.47
    anywhere = emoji_pictures(
        60, [sample_photograph("china")], split="validation", size=32, placing=Placing((0.05, 0.05), 45.0, None), seed=1
    )
    middles = torch.tensor([[box_of(a)[0] + box_of(a)[2] / 2, box_of(a)[1] + box_of(a)[3] / 2] for a in anywhere.alpha])
    assert float(middles.min()) < 9
    assert float(middles.max()) > 23
    assert low_to_middle.split == "validation"
    again = emoji_pictures(60, [sample_photograph("china")], split="validation", size=32, seed=1)
    assert again.sha256 == low_to_middle.sha256
    assert emoji_pictures(60, [sample_photograph("china")], split="validation", size=32, seed=2).sha256 != again.sha256


def test_placing_by_hand() -> None:
    # a solid square of 10 x 10 to a quarter of 20 x 20: it is that already; the middle stays within a tenth, 2 pixels
    cutouts = torch.ones(30, 4, 10, 10)
    data = placed(
        cutouts, torch.zeros(30, 3, 20, 20), torch.zeros(30, dtype=torch.int64), ("a",), Placing((0.25, 0.25), 0.0, 0.1), seed=0
    )
    boxes = [box_of(a) for a in data.alpha]
    assert {box[2:] for box in boxes} == {(10, 10)}
    assert {box[0] for box in boxes} <= {3, 4, 5, 6, 7}
    assert len({box[0] for box in boxes}) > 2
    with pytest.raises(InputError, match=r"^rate"):
        Placing((0.5, 0.2))
    with pytest.raises(InputError, match=r"^angle"):
        Placing(angle=200.0)
    with pytest.raises(InputError, match=r"^backgrounds"):
        placed(cutouts, torch.zeros(3, 3, 20, 20), torch.zeros(30, dtype=torch.int64), ("a",), Placing(), seed=0)


# The paper's own backgrounds


def scene(n: int = 3, size: int = 8) -> Scene:
    g = torch.Generator().manual_seed(2)
    alpha = torch.zeros(n, 1, size, size)
    alpha[:, :, 2:5, 2:5] = 1
    return Scene(torch.rand(n, 3, size, size, generator=g) * alpha, alpha, torch.rand(n, 3, size, size, generator=g))


def gens(n: int = 3) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(n)]


def test_one_step_of_diffusion_by_hand() -> None:
    """For pictures from N(0, 1) the best denoiser is eps = sqrt(1 - ab) x_t, and the last step gives sqrt(ab) x_t."""
    bar = torch.tensor([0.9, 0.5])
    editor = DiffusionBackground(
        lambda x, t: (1 - bar[t]).sqrt()[:, None, None, None] * x, 1, 2, alphas_bar=bar, range_weight=0.0
    )
    got = editor(scene(), 0.0, noise=gens())
    noise = torch.stack([torch.randn(3, 8, 8, generator=g) for g in gens()])
    x = math.sqrt(0.9) * (2 * scene().background - 1) + math.sqrt(0.1) * noise
    torch.testing.assert_close(got, ((math.sqrt(0.9) * x + 1) / 2).clamp(0, 1), atol=1e-5, rtol=0)


def test_two_steps_of_diffusion_by_hand() -> None:
    """Posterior mean and variance (Ho et al. 2020, equation 7), and the object at the noise level of t."""
    ab1, ab0 = 0.5, 0.9
    bar = torch.tensor([ab0, ab1])
    editor = DiffusionBackground(lambda x, t: torch.zeros_like(x), 2, 2, alphas_bar=bar, range_weight=0.0)
    got = editor(scene(), 0.0, noise=gens())
    sources = gens()

    def draw() -> Tensor:
        return torch.stack([torch.randn(3, 8, 8, generator=g) for g in sources])

    s = scene()
    x = math.sqrt(ab1) * (2 * s.background - 1) + math.sqrt(1 - ab1) * draw()
    x0, beta = x / math.sqrt(ab1), 1 - ab1 / ab0
    x = math.sqrt(ab0) * beta / (1 - ab1) * x0 + math.sqrt(1 - beta) * (1 - ab0) / (1 - ab1) * x
    x = x + math.sqrt((1 - ab0) / (1 - ab1) * beta) * draw()
    thing = math.sqrt(ab1) * (2 * s.object - 1) + math.sqrt(1 - ab1) * draw()
    x = torch.where(s.alpha > 0, thing, x)
    torch.testing.assert_close(got, ((x / math.sqrt(ab0) + 1) / 2).clamp(0, 1), atol=1e-5, rtol=0)


def test_guidance_orders_complexity(pictures: CutoutSet) -> None:
    """Invariant 3 for the sampler: on average over 32 pictures, with a denoiser that believes in a grey picture."""
    bar = linear_alphas_bar().float()

    def towards_grey(x: Tensor, t: Tensor) -> Tensor:
        ab = bar[t][:, None, None, None]
        spread = 0.1  # the variance of a clean pixel; eps is the mean of the noise given x_t, for pixels from N(0, spread)
        return (1 - ab).sqrt() * x / (1 - ab + spread * ab)

    values = []
    for strength in (-2000.0, 0.0, 2000.0):
        editor = AttributeEditor(DiffusionBackground(towards_grey, steps=10))
        found = editor.edit(pictures, Edit("background", strength))
        values.append(float(background_complexity(found.image).mean()))
        solid = (found.mask == 1).expand_as(found.image)
        kept, _ = pictures[torch.arange(len(pictures))]
        assert float((found.image - kept.object)[solid].abs().max()) < 1e-6
    assert values[0] < values[1] < values[2]


def test_learned_variances_lie_between_their_bounds() -> None:
    bar = torch.tensor([0.9, 0.5, 0.2])
    same = [
        DiffusionBackground(lambda x, t, v=v: torch.cat([0 * x, torch.full_like(x, v)], 1), 3, 3, alphas_bar=bar)(
            scene(), 0.0, noise=gens()
        )
        for v in (-1.0, 1.0)
    ]
    fixed = DiffusionBackground(lambda x, t: 0 * x, 3, 3, alphas_bar=bar)(scene(), 0.0, noise=gens())
    torch.testing.assert_close(same[0], fixed)  # -1: the lower bound, which is the fixed variance
    assert float((same[1] - fixed).abs().mean()) > 0.01


def test_a_denoiser_that_is_none() -> None:
    with pytest.raises(InputError, match=r"^denoiser: got a result of shape \(3, 3, 4, 4\)"):
        DiffusionBackground(lambda x, t: x[:, :, :4, :4], 2)(scene(), 0.0, noise=gens())
    with pytest.raises(InputError, match=r"^denoiser"):
        DiffusionBackground("unet.pt")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^steps: got 101"):
        DiffusionBackground(lambda x, t: x, steps=101)


def test_the_adversarial_sampler_raises_the_loss(pictures: CutoutSet) -> None:
    bar = linear_alphas_bar().float()
    model = Linear()
    mean_loss = []
    for weight in (0.0, 3000.0):
        editor = DiffusionBackground(lambda x, t: (1 - bar[t]).sqrt()[:, None, None, None] * x, steps=10, attack_weight=weight)
        found = AttributeEditor(editor).edit(pictures, Edit("adversarial-background", 0.0), surrogate=model)
        mean_loss.append(float(nn.functional.cross_entropy(model(found.image), pictures.labels).detach()))
    assert mean_loss[1] > mean_loss[0] + 0.01
