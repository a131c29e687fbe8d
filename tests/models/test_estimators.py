"""Real classifiers of scikit-learn as models: their own answers, class by class, whatever they were fitted on."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from torch import Tensor

import tutelage
from tutelage.core.errors import InputError
from tutelage.models import fingerprint, from_sklearn, is_differentiable
from tutelage.threats import Linf, Square


def data(n: int = 60, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 4, 4): class c is bright in row c."""
    labels = torch.arange(n) % classes
    images = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.5
    for i, label in enumerate(labels.tolist()):
        images[i, 0, label] += 0.4
    return images, labels


X, Y = data()
FLAT = X.reshape(len(X), -1).numpy()

ESTIMATORS = {
    "logistic regression": LogisticRegression(),
    "pipeline": make_pipeline(StandardScaler(), PCA(8), LogisticRegression()),
    "forest": RandomForestClassifier(10, random_state=0),
    "support vectors": make_pipeline(StandardScaler(), SVC()),
    "ridge": RidgeClassifier(),
    "neighbours": KNeighborsClassifier(3),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_its_predictions_are_its_own(name: str) -> None:
    estimator = ESTIMATORS[name].fit(FLAT, Y.numpy())
    noisy = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    out = from_sklearn(estimator)(noisy)
    assert out.shape == (50, 3)
    wanted = estimator.predict(noisy.reshape(50, -1).numpy())
    assert out.argmax(1).tolist() == wanted.tolist()
    assert len(set(wanted.tolist())) > 1
    if hasattr(estimator, "predict_proba"):
        probabilities = estimator.predict_proba(noisy.reshape(50, -1).numpy())
        assert np.allclose(out.exp().numpy(), probabilities, atol=1e-6)
    else:
        scores = estimator.decision_function(noisy.reshape(50, -1).numpy())
        if name == "support vectors":  # it predicts by vote: here its scores say otherwise, and two of them change places
            assert np.any(scores.argmax(1) != wanted)
            scores = np.sort(scores, 1)
            out = out.sort(1).values
        assert np.allclose(out.numpy(), scores, atol=1e-5)
    labels = from_sklearn(estimator, method="predict")(noisy)
    assert labels.argmax(1).tolist() == wanted.tolist()


def test_two_classes_have_two_columns() -> None:
    two = Y < 2
    machine = SVC().fit(FLAT[two], Y[two].numpy())
    out = from_sklearn(machine)(X)
    assert out.shape == (60, 2)
    assert np.allclose((out[:, 1] - out[:, 0]).numpy(), machine.decision_function(FLAT), atol=1e-5)


def test_classes_have_their_place() -> None:
    """Fitted on the classes 0 and 2 of three, on names, on -1 and 1, on floats, on names in another order."""
    some = Y != 1
    gaps = from_sklearn(LogisticRegression().fit(FLAT[some], Y[some].numpy()))(X)
    assert gaps.shape == (60, 3)
    assert float(gaps[:, 1].max()) < -80
    assert torch.equal(gaps.argmax(1)[some], Y[some])
    score = from_sklearn(SVC().fit(FLAT[some], Y[some].numpy()), classes=4)(X)
    assert score.shape == (60, 4)
    assert torch.equal(score.argmax(1)[some], Y[some])

    names = np.array(["ant", "bee", "cat"])
    by_name = LogisticRegression().fit(FLAT, names[Y.numpy()])
    assert torch.equal(from_sklearn(by_name)(X).argmax(1), Y)
    turned = from_sklearn(by_name, classes=["cat", "ant", "bee", "dog"])(X)
    assert turned.shape == (60, 4)
    assert torch.equal(turned.argmax(1), (Y + 1) % 3)
    assert torch.equal(from_sklearn(by_name, method="predict", classes=by_name.classes_)(X).argmax(1), Y)

    signs = from_sklearn(LogisticRegression().fit(FLAT[Y < 2], 2 * Y[Y < 2].numpy() - 1))(X)
    assert torch.equal(signs.argmax(1)[Y < 2], Y[Y < 2])
    floats = from_sklearn(LogisticRegression().fit(FLAT[some], Y[some].double().numpy()))(X)
    assert torch.equal(floats, gaps)


def test_what_is_fitted_on_something_else_is_prepared() -> None:
    on_bytes = LogisticRegression(max_iter=500).fit(FLAT * 255, Y.numpy())
    model = from_sklearn(on_bytes, prepare=lambda images: images.reshape(len(images), -1) * 255)
    assert torch.equal(model(X).argmax(1), Y)
    whole = make_pipeline(FunctionTransformer(lambda a: a.mean((1, 3))), LogisticRegression(C=100)).fit(X.numpy(), Y.numpy())
    assert torch.equal(from_sklearn(whole, prepare=lambda images: images)(X).argmax(1), Y)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: LogisticRegression(), {}, r"estimator: got a LogisticRegression without one list of classes_, .* call fit"),
        (lambda: LogisticRegression, {}, "estimator: got LogisticRegression, wanted a fitted classifier"),
        (lambda: LinearRegression().fit(FLAT, Y), {}, "estimator: got a LinearRegression without one list of classes_"),
        (lambda: KMeans(3, n_init=1).fit(FLAT), {}, "estimator: got a KMeans without"),
        (lambda: StandardScaler().fit(FLAT), {}, "estimator: got StandardScaler, wanted a fitted classifier"),
        (lambda: 3, {}, "estimator: got int"),
        (
            lambda: MultiOutputClassifier(LogisticRegression()).fit(FLAT, np.stack([Y, Y], 1)),
            {},
            "estimator: got a MultiOutputClassifier without one list of classes_",
        ),
        (lambda: make_pipeline(SVC(decision_function_shape="ovo")).fit(FLAT, Y), {}, "estimator: .*ovo.*method=\"predict\""),
        (lambda: SVC().fit(FLAT, Y), {"method": "predict_proba"}, "method: .* that the SVC has: decision_function, predict"),
        (lambda: SVC().fit(FLAT, Y), {"method": "transform"}, "method: got transform, wanted one of predict_proba"),
        (lambda: SVC().fit(FLAT, Y), {"classes": 2}, "classes: got 2, wanted an integer >= 3"),
        (lambda: SVC().fit(FLAT, Y), {"classes": ["a", "b"]}, "classes: got no 0, wanted all that"),
        (lambda: SVC().fit(FLAT, Y), {"classes": "abc"}, "classes: got abc, wanted a number of classes, or their names"),
        (lambda: SVC().fit(FLAT, Y), {"prepare": 3}, "prepare: got 3"),
    ],
)  # fmt: skip
def test_what_is_no_fitted_classifier(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        from_sklearn(make(), **options)


def test_images_of_another_size_are_told() -> None:
    model = from_sklearn(LogisticRegression().fit(FLAT, Y))
    with pytest.raises(InputError, match=r"images of 1 x 5 x 5 = 25 numbers, wanted the 16 features that the estimator"):
        model(torch.rand(2, 1, 5, 5))


def test_an_audit_of_a_pipeline() -> None:
    """Black box, from end to end; a linear model, whose robust accuracy is known in closed form, bounds what Square finds."""
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.01)).fit(FLAT, Y.numpy())
    model = from_sklearn(pipeline)
    assert not is_differentiable(model)
    assert repr(model) == "Function(Pipeline.predict_proba, gives='probabilities', classes=3, takes='numpy')"
    eps = 0.1
    result = tutelage.audit(model, (X, Y), threats=[Square(Linf(eps), queries=300)], curve=False)
    assert result.status == "reliable"
    # each other class j gains eps * |w_j - w_y|_1 at most; nothing is cut off, as the images stay within [0.1, 0.9]
    scaler, linear = pipeline.steps[0][1], pipeline.steps[1][1]
    weight, scores = linear.coef_ / scaler.scale_, pipeline.decision_function(FLAT)
    own = Y.numpy()
    gain = eps * np.abs(weight[None] - weight[own][:, None]).sum(2)
    holds = np.all((scores - scores[np.arange(60), own][:, None] + gain < 0) | (np.arange(3) == own[:, None]), axis=1)
    found = np.array(result.predictions["linf@0.1 Square-300"])
    assert not np.any(holds & ~found)  # what is certain holds
    assert holds.mean() <= found.mean() < result.clean_accuracy


IDENTITY = """
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tutelage.models import fingerprint, from_sklearn
x = np.arange(80.0).reshape(20, 4) % 7
forest = make_pipeline(StandardScaler(), RandomForestClassifier(3, random_state=0)).fit(x, np.arange(20) % 2)
print(fingerprint(from_sklearn(forest)))
"""


def test_a_fingerprint_is_that_of_what_was_fitted() -> None:
    """Two models without a single tensor are told apart, and one is the same in another process."""
    one, same, other = (LogisticRegression(C=c).fit(FLAT, Y.numpy()) for c in (1.0, 1.0, 0.5))
    assert fingerprint(from_sklearn(one)) == fingerprint(from_sklearn(same))
    assert fingerprint(from_sklearn(one)) != fingerprint(from_sklearn(other))
    assert fingerprint(from_sklearn(one)) != fingerprint(from_sklearn(one, method="predict"))
    here = io.StringIO()
    with contextlib.redirect_stdout(here):
        exec(IDENTITY, {})
    command, changed = [sys.executable, "-c", IDENTITY], {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run(command, capture_output=True, text=True, check=True, env=changed)
    assert here.getvalue() == there.stdout
    lambdas = make_pipeline(FunctionTransformer(lambda a: a), LogisticRegression()).fit(FLAT, Y.numpy())
    assert len(fingerprint(from_sklearn(lambdas))) == 64
