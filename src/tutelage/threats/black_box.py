"""What is left of a threat where a model gives no gradients: a function, a classifier of scikit-learn, an endpoint."""

from __future__ import annotations

from torch import nn

from tutelage.core.errors import InputError
from tutelage.models.black_box import gives_labels_only
from tutelage.models.checks import is_differentiable
from tutelage.threats.budgets import Budget
from tutelage.threats.decision import Decision
from tutelage.threats.square import Square
from tutelage.threats.suite import Suite

QUERIES = 5000
UPPER_BOUND = (
    "black-box attacks only: the model gives no gradients, so this is an upper bound that a longer search, or one with "
    "gradients, may lower"
)


def black_box_suite(budget: Budget, queries: int = QUERIES, *, labels_only: bool = False) -> Suite:
    """What a bare budget means for a model without gradients; its numbers are upper bounds (`UPPER_BOUND`).

    First the Square attack, which climbs the margin with up to `queries` passes a sample; then, on what is left, the
    decision-based attack with a fifth of them, which asks for labels only, so that scores without slope (a forest's, a
    neighbour's) do not mislead it. labels_only: scores say nothing; the decision-based attack alone, with all passes.
    """
    few = max(1, queries // 5)
    by_label = Decision(budget, queries=queries if labels_only else few)
    attacks = (
        (("Decision", by_label),) if labels_only else (("Square", Square(budget, queries=queries)), ("Decision", by_label))
    )
    return Suite(budget, attacks, label="black-box suite")


def for_model(suite: Suite, model: nn.Module, queries: int = QUERIES) -> Suite:
    """`suite` as it can be run on `model`: unchanged if the model has gradients or none of its attacks needs them.

    Otherwise a suite that is ours (with a label) becomes the black-box suite of the same budget; an attack that was asked
    for by name raises InputError, which names those that work.
    """
    needing = [name for name, attack in suite.attacks if attack.needs_gradients]
    if not needing or is_differentiable(model):
        return suite
    if suite.label:
        return black_box_suite(suite.budget, queries, labels_only=gives_labels_only(model))
    raise InputError(
        "threats",
        f"{needing[0]} on a {type(model).__name__}, which gives no gradients",
        f"black-box attacks, such as square-{QUERIES}:{suite.budget}, or the budget alone, which chooses them",
    )
