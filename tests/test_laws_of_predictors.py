"""Each law of predictors, and of tasks, is broken by one that keeps all others before it, and `nas.testing` says
which."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from nas import testing
from nas.tasks.base import Raw
from nas.testing.laws.names import PREDICTOR, members
from nas.testing.laws.numbers import Numbers
from spaces.base import one_hot

SPACE = Numbers((2, 2, 3))


@dataclasses.dataclass(frozen=True)
class Ridge:
    """Least squares, from the weights of an earlier fit on."""

    def fit(self, space, encodings, targets, start=None):
        known = jnp.isfinite(targets)
        x = one_hot(space, encodings) * known[:, None]
        before = jnp.zeros(x.shape[1]) if start is None else start
        y = jnp.where(known, targets, 0) - x @ before
        return before + jnp.linalg.solve(x.T @ x + 0.1 * jnp.eye(x.shape[1]), x.T @ y)

    def predict(self, params, encodings):
        mean = one_hot(SPACE, encodings) @ params
        return mean, jnp.ones(len(mean))


def ridge(**kept):
    return dataclasses.dataclass(frozen=True)(type("Odd", (Ridge,), kept))()


def fitting(change):
    """A predictor that fits what is made of the targets."""
    return ridge(
        fit=lambda self, space, rows, targets, start=None: Ridge.fit(self, space, rows, change(targets), start)
    )


def predicting(change):
    return ridge(predict=lambda self, params, rows: change(*Ridge.predict(self, params, rows)))


def without_start(self, space, rows, targets, start=None):
    assert start is None
    return Ridge.fit(self, space, rows, targets)


def lost(self, space, rows, targets, start=None):
    return Ridge.fit(self, space, rows, targets) + (0 if start is None else jnp.nan)


def shy(self, params, rows):
    mean, deviation = Ridge.predict(self, params, rows)
    return mean, deviation * jnp.sign(mean - 1e6)


def first_half(targets):
    return jnp.where(jnp.arange(len(targets)) < len(targets) // 2, targets, 0)


def of_nothing(self, space, rows, targets, start=None):
    """Failed rows teach nothing, but how many they are counts."""
    return Ridge.fit(self, space, rows, targets, start) * jnp.isfinite(targets).mean()


def infected(self, space, rows, targets, start=None):
    return Ridge.fit(self, space, rows, targets, start) + 0 * targets.sum()


def centred(self, space, rows, targets, start=None):
    """By all rows, those that failed among them."""
    return Ridge.fit(self, space, rows, targets, start) + 0.1 * one_hot(space, rows).mean(0)


FITS = itertools.count()
LAWS = {
    "a class": (Ridge, "it is a value, and no class"),
    "no predict": (dataclasses.dataclass(frozen=True)(type("Odd", (), {"fit": Ridge.fit}))(), "it must have 'predict'"),
    "by NumPy": (fitting(np.array), "fit works in a jitted function"),
    "no prediction": (ridge(predict=lambda *_: 1 / 0), "predict works in a jitted function"),
    "one mean": (predicting(lambda mean, std: (mean.mean(), std)), "predict gives a mean for each row"),
    "one deviation": (predicting(lambda mean, std: (mean, std[0])), "predict gives a standard deviation for each row"),
    "no mean": (predicting(lambda mean, std: (mean / 0, std)), "the mean is finite"),
    "no deviation": (predicting(lambda mean, std: (mean, std / 0)), "the standard deviation is finite"),
    "shy": (ridge(predict=shy), "the standard deviation is not negative"),
    "drawn elsewhere": (fitting(lambda targets: targets + next(FITS)), "the same rows give the same fit"),
    "in this order": (fitting(first_half), "rows may come in any order"),
    "infected": (ridge(fit=infected), "failed rows (NaN) are left out of the fit; tried ["),
    "failed are 0": (fitting(jnp.nan_to_num), "failed rows (NaN) are left out of the fit"),
    "failed are seen": (ridge(fit=centred), "found that what failed counts"),
    "failures count": (ridge(fit=of_nothing), "failed rows (NaN) are left out of the fit"),
    "no start": (ridge(fit=without_start), "fit goes on from an earlier fit, its start"),
    "no shares": (ridge(shares=lambda *_: 1 / 0), "shares says what each predictor counts"),
    "half": (ridge(shares=lambda *_: {"a": 0.5}), "the sum of shares is 1; tried 60 rows, found {'a': 0.5}"),
    "lost": (ridge(fit=lost), "the mean is finite"),
}


def broken(check, *given) -> str:
    with pytest.raises(testing.Broken) as found:
        check(*given)
    assert len(str(found.value).splitlines()) == 1
    return str(found.value)


@pytest.mark.parametrize("name", LAWS)
def test_a_broken_law_of_predictors_is_told(name):
    predictor, said = LAWS[name]
    assert said in broken(testing.check_predictor, predictor, SPACE)


def test_a_plain_predictor_keeps_the_laws():
    testing.check_predictor(Ridge(), SPACE)
    testing.check_predictor(ridge(shares=lambda *_: {"a": 1.0}, sizes=(64, 256)), SPACE)


@pytest.mark.parametrize("ability", PREDICTOR, ids=lambda ability: ability.__name__)
def test_what_has_the_name_of_an_ability_of_predictors_by_chance_is_told(ability):
    for name in members(ability):
        said = broken(testing.check_predictor, ridge(**{name: 32}), SPACE)
        assert said.startswith(f"field {name!r} is the name of an ability, {ability.__name__}")


IMAGES, LABELS = np.arange(40 * 64, dtype=np.uint32).reshape(40, 8, 8).astype(np.uint8), np.arange(40) % 2
WHOLE = {part: (IMAGES, LABELS) for part in ("train", "valid", "test")} | {"classes": ("a", "b")}


def changing(*makes):
    """A task that is another each time."""
    which = itertools.cycle(makes)
    return lambda: next(which)


TASKS_OF_ONES_OWN = {
    "a number": (lambda: 3, "allowed: images and labels, or a mapping"),
    "other images": (changing(WHOLE, WHOLE | {"train": (IMAGES + 1, LABELS)}), "the same data each time: train.images"),
    "other labels": (changing(WHOLE, WHOLE | {"valid": (IMAGES, 1 - LABELS)}), "the same data each time: valid.labels"),
    "other tests": (changing(WHOLE, WHOLE | {"test": (IMAGES + 1, LABELS)}), "the same data each time: test.images"),
    "other parts": (changing(WHOLE, WHOLE | {"test": None}), "a task has the same parts each time; tried test"),
    "other classes": (changing(WHOLE, WHOLE | {"classes": ("a", "c")}), "a task has the same classes each time"),
    "more classes": (
        changing(Raw((IMAGES, LABELS), 2), Raw((IMAGES, LABELS), 3)),
        "a task has the same num_classes each time",
    ),
    "one class": ((IMAGES, LABELS * 0), "num_classes=1 must lie in 2..40"),
    "a rare class": ((IMAGES, [*(LABELS * 0)[1:], 2]), "class 1 has 0, class 2 has 1 training images"),
    "the end": (lambda: 1 / 0, "ZeroDivisionError"),
}


@pytest.mark.parametrize("name", TASKS_OF_ONES_OWN)
def test_a_broken_law_of_tasks_is_told(name):
    task, said = TASKS_OF_ONES_OWN[name]
    assert said in broken(testing.check_task, task)


def test_tasks_of_every_kind_keep_the_laws():
    testing.check_task(WHOLE)
    testing.check_task((IMAGES, LABELS * 0.5))
    boxes = np.tile(np.array([0.1, 0.1, 0.5, 0.5, 0, 0, 8], np.float32), (40, 2, 1))  # nas.tasks.detection
    testing.check_task(Raw((IMAGES[..., None], boxes), 1))
