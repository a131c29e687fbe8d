"""IBP-tightness: train nets whose robustness can be proved by interval bounds, and see why that works.

For whoever wants a classifier with a certificate instead of a hope, and for whoever has a ReLU net and wants to know where
its interval bounds get loose. Training with the loosest bounds gives the best certified nets; the paper measures the reason.

    Mao, Mueller, Fischer, Vechev: Understanding Certified Training with Interval Bound Propagation,
    arXiv 2306.10426 (2023), ICLR 2024.

A deep linear net W_L ... W_1 x + b over a box of radius eps has the optimal box and the layer-wise (IBP) box

    eps* = |W_L ... W_1| eps                                                                                 (1)
    eps+ = |W_L| ... |W_1| eps                                                                               (2)
    tau  = eps* / eps+,  in [0, 1]: the propagation tightness                                                (3)

Two layers of independent Gaussian weights with d units between them, ratio of expected radii, whatever the variances:

    tau_2(d) = sqrt(pi) Gamma((d + 1) / 2) / (d Gamma(d / 2))  ~  sqrt(pi / (2 d))                           (4)

so wider is looser, and tau falls about geometrically with depth. Boxes are exact (tau = 1) if and only if

    for all outputs i and inputs k, the products w2_ij w1_jk have one sign over all j,                       (5)

which binds most signs: a strong regularisation. For a ReLU net at an input x, D_k its 0/1 activation pattern at x,

    tau_x = |W_L D_{L-1} W_{L-1} ... D_1 W_1| eps / (|W_L| D_{L-1} |W_{L-1}| ... D_1 |W_1| eps)              (6)

where eps_i = (min(x_i + eps, 1) - max(x_i - eps, 0)) / 2 stays in the data range and the rows e_y - e_j are folded into W_L.
One pass back for each output, once with W, once with |W|, in float64: products over 13 layers reach 1e-17.

IBP training minimises the cross-entropy of the worst logits, with lb the IBP bound of z_y - z_j on the box:

    L = CE(v, y),  v_y = 0,  v_j = -lb(z_y - z_j);   BatchNorm: the statistics of the clean batch            (7)

on the whole box, or (SABR) on one of radius lambda eps around an adversarial point. While eps_t rises (Shi et al. 2021, arXiv
2103.17268), with r_k and c_k radii and centres before ReLU k, m and v the balance min(a, 1/a) of the mean and the variance of
centres between active and inactive neurons,

    + lambda (1 - eps_t / eps) [relu(.5 - mean r_0 / mean r_k) + relu(.5 - m) + relu(.5 - v)] / .5           (8)
    eps_t / eps = s^4 scaled on the first quarter of the ramp, then its tangent                              (9)
    W ~ N(0, 2 pi / fan_in^2), all layers but the last                                                       (10)

Where we differ: (8) is the mean over ReLU layers; tau is not clamped at 1e-8 (a clamped 1e-17 / 1e-17 would read as tight),
and a box that is a point has no tau. (4) is derived here and checked by simulation. Sums of two paths are covered: radii add.
`tightness.py` beside this file has (1) to (6), `training.py` (7) to (10); bounds and certificates are in `tutelage.guarantees`.

Example::

    import tutelage
    from torch import nn
    from tutelage.guarantees.certify import certify
    from tutelage.methods.certify.ibp_tightness import CertifiedConfig, diagnose, fit_certified, mean_tightness, tightness

    data = tutelage.fashion_mnist_subset("train").take(slice(0, 256))  # or your own DataLoader of (image, label)
    model = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(196, 32), nn.ReLU(), nn.Linear(32, 10))
    result = fit_certified(model, data.loader(64), eps=0.05, epochs=3, config=CertifiedConfig(ramp=(0, 0.5)))

    x, y = data[:32]
    print(result.history[-1]["certified"], mean_tightness(tightness(model, x, 0.05, y)))
    print(diagnose(model, x, 0.05))  # layer by layer: dead, active and unstable ReLUs, radius, tightness
    print(certify(model, x, y, 0.05, ("ibp", "crown")))
"""

from tutelage.methods.certify.ibp_tightness.tightness import (
    Diagnosis,
    LayerDiagnosis,
    deep_linear_radii,
    deep_linear_tightness,
    diagnose,
    mean_tightness,
    propagation_invariant,
    relu_states,
    tau_gaussian,
    tightness,
)
from tutelage.methods.certify.ibp_tightness.training import (
    CertifiedConfig,
    CertifiedTraining,
    certified_loss,
    fast_regulariser,
    fit_certified,
    ibp_accuracy,
    ibp_init,
    smooth_ramp,
)

__all__ = [
    "CertifiedConfig",
    "CertifiedTraining",
    "Diagnosis",
    "LayerDiagnosis",
    "certified_loss",
    "deep_linear_radii",
    "deep_linear_tightness",
    "diagnose",
    "fast_regulariser",
    "fit_certified",
    "ibp_accuracy",
    "ibp_init",
    "mean_tightness",
    "propagation_invariant",
    "relu_states",
    "smooth_ramp",
    "tau_gaussian",
    "tightness",
]
