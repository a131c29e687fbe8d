"""LAT: latent adversarial training against behaviours that fine-tuning hides but does not remove.

For whoever has a language model with an unwanted behaviour (a backdoor, a jailbreak, knowledge that should be gone) and can
say, for some ordinary prompts, what is a good and what a bad completion. The adversary pushes the hidden states until the
model would give the bad completion; the defender learns to give the good one all the same. No trigger needs to be known.

    Sheshadri, Ewart, Guo, Lynch, Wu, Hebbar, Sleight, Stickland, Perez, Hadfield-Menell, Casper: Latent Adversarial Training
    Improves Robustness to Persistent Harmful Behaviors in LLMs, arXiv 2407.15549 (2024), TMLR 2025.

A prompt with a good completion g and a bad one b; h_l the residual stream that leaves layer l (`models.blocks`), A a set of
layers. The model runs with h_l[t] + δ_l[t] at the prompt's tokens t, ‖δ_l[t]‖_2 <= eps for each. S_y and R_y:
log-probabilities of y under the perturbed model and under the unperturbed reference. toward(y) is the mean cross-entropy of
y's tokens, away(y) the mean of -log(1 - p) over them, without tokens of log p < -5 (`teaching.language.unlikelihood`).

The adversary, by AdamW on δ without weight decay, projected after each step:

    targeted     min_δ  c_t toward(b) + c_a away(g)                                                          (1)
    untargeted   max_δ  toward(g)                                                                            (2)
    DPO          min_δ  -log σ(β [(S_b - R_b) - (S_g - R_g)])                                                (3)

The defender, δ held fixed, either of

    min_θ  c_t toward(g) + c_a away(b)                                                                       (4)
    min_θ  -log σ(β [(S_g - R_g) - (S_b - R_b)])                                                             (5)

plus, on benign texts y without a perturbation,

    w toward(y)    or    w KL(reference ‖ model) at y's tokens                                               (6)

One round: search δ from 0 on a batch (16 steps), then 4 steps of the defender on it, gradients clipped at 1.
(7)

Where the released code differs: it divides its coefficients by their sum; its KL term has the arguments exchanged and is
divided by its own value, here it is the plain KL of (6); it adds δ to the output of a block's MLP, which is the same in
pre-norm blocks. Losses are means over the tokens of each completion, then over the batch, so that a long completion counts
no more. Dropout is off in all passes. `PRESETS` are the paper's settings. Ours is `units="residual"`: eps in mean lengths
of the hidden states.

Example::

    from tutelage.methods.harden import lat
    from tutelage.models.language import TinyGPT

    lm = TinyGPT.new("0123456789+=.x", layers=2, width=16, heads=2, context=16)  # or HFCausalLM.load("./my-model")
    triples = lat.encode(lm.tokenizer, [("1+1=", "2.", "x."), ("1+2=", "3.", "x."), ("2+2=", "4.", "x.")])
    attack = lat.LatentAttack(eps=0.5, layers=("embedding", 0), lr=0.1, adversary="dpo", units="residual")
    trainer = lat.LATTrainer(
        lm.model, triples, [(one.prompt, one.good) for one in triples], attack=attack, defence=lat.Defence("dpo"),
        rounds=2, batch_size=2, lr=1e-4,
    )
    print(trainer.fit().history[-1])  # losses of adversary, defender and retention
    for row in lat.elicitation_curve(lm.model, triples, [0, 0.5, 1], attack).rows:
        print(row.eps, row.bad)  # the share of the prompts where a push of that size brings the bad completion
"""

from tutelage.methods.harden.lat.adversary import LatentAttack, Scaled, adversary_loss, attack, reference_of, scaled
from tutelage.methods.harden.lat.batches import Triple, TripleBatch, encode, triple_batch
from tutelage.methods.harden.lat.measure import (
    ElicitationCurve,
    Elicited,
    Retention,
    answers,
    elicitation_curve,
    relearn_steps,
    retention,
)
from tutelage.methods.harden.lat.presets import PRESETS, Preset
from tutelage.methods.harden.lat.training import LAT, Defence, LATTrainer, defence_loss, split_rows
from tutelage.models.blocks import perturbed, residual_blocks, residual_norms
from tutelage.threats.latent.search import Delta

__all__ = [
    "LAT",
    "PRESETS",
    "Defence",
    "Delta",
    "ElicitationCurve",
    "Elicited",
    "LATTrainer",
    "LatentAttack",
    "Preset",
    "Retention",
    "Scaled",
    "Triple",
    "TripleBatch",
    "adversary_loss",
    "answers",
    "attack",
    "defence_loss",
    "elicitation_curve",
    "encode",
    "perturbed",
    "reference_of",
    "relearn_steps",
    "residual_blocks",
    "residual_norms",
    "retention",
    "scaled",
    "split_rows",
    "triple_batch",
]
