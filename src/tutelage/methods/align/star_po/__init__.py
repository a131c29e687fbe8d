"""Which preference loss stays good when nobody tunes it? LN-DPO, and a map of methods over their hyper-parameters.

Ahrabian et al., The Hitchhiker's Guide to Human Alignment with *PO, arXiv 2407.15229 (NAACL Findings 2025, as A Practical
Analysis of Human Alignment with *PO). Papers report their best grid cell; a practitioner gets an average one. For a prompt x
with a chosen answer y_w and a rejected one y_l, S(y) = Σ_i log π(y_i|x, y_<i) under the policy, R(y) the same under the frozen
SFT model, and |y| tokens with the end token:

    (1)  DPO      -log σ( β [(S_w - R_w) - (S_l - R_l)] )
    (2)  LN-DPO   -log σ( β [(S_w - R_w)/|y_w| - (S_l - R_l)/|y_l|] )
    (3)  SimPO    -log σ( β [S_w/|y_w| - S_l/|y_l|] - γ )
    (4)  IPO      ( [(S_w - R_w)/|y_w| - (S_l - R_l)/|y_l|] - 1/(2β) )²

LN-DPO's implicit reward is (β/|y|) log π/π_ref, so its β must be about |y| times that of DPO for the same slope. It starts
at the SFT model, which is the reference too; its log-probabilities are computed once. `robustness_map` trains every method at
every setting of a grid, lets each model answer the same prompts by one decoding, and shows the distribution, not only the best:

    (5)  E_k = Σ_j z_(j) [C(j, k) - C(j-1, k)] / C(n, k)      the best of k random configurations of n, expected
    (6)  regret_k = max_j z_j - E_k

with divergence from the SFT model (Rao-Blackwell), win rate, length and truncation beside the reward. What is best is chosen on
validation prompts and reported on others. Failed trainings are counted.

Example::

    from tutelage.data.worlds.arithmetic import ArithmeticChains
    from tutelage.methods.align.star_po import Decoding, Grid, PreferenceData, TinyGPT, robustness_map

    world = ArithmeticChains((2,), styles=("terse", "padded"))
    items = world.sample(24, 0)
    pairs = PreferenceData(
        [i.prompt for i in items], [world.render(i, "padded", 1) for i in items], [world.render(i, "terse") for i in items]
    )
    sft = TinyGPT.new(world.alphabet, layers=1, width=16, heads=2, context=64)  # random weights: train yours first
    answers = {i.prompt: i for i in world.sample(40, 0, "test")}
    prompts = sorted(answers)
    found = robustness_map(
        sft, pairs, {"dpo": Grid("dpo", (0.1, 0.5), (1e-3,)), "ln-dpo": Grid("ln_dpo", (1.0, 3.0), (1e-3,))},
        lambda prompt, answer: float(world.verify(answers[prompt], answer.text).right),
        prompts[:2], validation=prompts[2:], steps=2, decoding=Decoding(max_tokens=8),
    )
    print(found.recommend(k=2))
"""

from tutelage.methods.align.star_po.grid import Grid, RobustnessMap, Row, Setting, default_grids, fresh_copy, robustness_map
from tutelage.methods.align.star_po.measure import Decoding, Measured, divergence, measure, wins
from tutelage.methods.align.star_po.pictures import expected_best_figure, price_figure, spread_figure, write_map
from tutelage.methods.align.star_po.robustness import Recommendation, Spread, expected_best, recommend, regret, spread
from tutelage.models.language.tiny import TinyGPT
from tutelage.teaching.language.pairs import PreferenceData, TokenPairs, tokenised
from tutelage.teaching.language.preference_training import PreferenceRun, reference_logprobs, train_preference
from tutelage.teaching.language.preferences import pair_loss

__all__ = [
    "Decoding",
    "Grid",
    "Measured",
    "PreferenceData",
    "PreferenceRun",
    "Recommendation",
    "RobustnessMap",
    "Row",
    "Setting",
    "Spread",
    "TinyGPT",
    "TokenPairs",
    "default_grids",
    "divergence",
    "expected_best",
    "expected_best_figure",
    "fresh_copy",
    "measure",
    "pair_loss",
    "price_figure",
    "recommend",
    "reference_logprobs",
    "regret",
    "robustness_map",
    "spread",
    "spread_figure",
    "tokenised",
    "train_preference",
    "wins",
    "write_map",
]
