"""What a user believes before a search: weights of choices, by which some proposals are drawn."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from conftest import Toy

from nas.commands.cli import main
from nas.errors import UsageError
from nas.job.prior import weights_of
from nas.store.sql import Store
from spaces import presets
from spaces.base import every
from strategies.base import Observations, Proposals
from strategies.guided import Guided
from strategies.random_search import RandomSearch
from strategies.reinforce import Reinforce

CELLS = presets("nasbench201")["paper"]
OPS = [choice for choice in CELLS.decisions()[0].choices]


def test_a_choice_has_its_weight_wherever_it_can_be_made():
    weights = weights_of("nor_conv_3x3=3; none = 0", CELLS)
    assert weights == ((0.0, *[3.0 if op == "nor_conv_3x3" else 1.0 for op in OPS[1:]]),) * 6


def test_a_choice_of_one_decision_is_said_with_it_and_the_later_counts():
    first = CELLS.decisions()[0].name
    weights = weights_of(f"skip_connect=5;{first}: skip_connect=0.5", CELLS)
    place = OPS.index("skip_connect")
    assert [row[place] for row in weights] == [0.5, *[5.0] * 5]


def test_a_space_without_words_has_numbers():
    assert weights_of("decision 1: 2=4; 3=2", Toy())[1] == (1.0, 1.0, 4.0)
    assert weights_of("3=2", Toy())[3:] == ((1.0, 1.0, 1.0, 2.0),) * 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nor_conv_3x3", "must be CHOICE=WEIGHT or DECISION: CHOICE=WEIGHT"),
        ("", "must be CHOICE=WEIGHT"),
        ("nor_conv_3x3=3;", "must be CHOICE=WEIGHT"),
        ("conv_3x3=3", "did you mean 'nor_conv_3x3'?"),
        ("none=-1", "a weight must be a number in 0..1e+06"),
        ("none=nan", "a weight must be a number in 0..1e+06"),
        ("none=1; none=2", "says 'none' twice"),
        ("none=\u0663", "a weight must be a number in 0..1e+06"),
        ("none=much", "a weight must be a number in 0..1e+06"),
        (";".join(f"{op}=0" for op in OPS), "no choice whose weight is above 0"),
    ],
)
def test_what_is_no_prior_is_refused(text, said):
    with pytest.raises(UsageError) as refused:
        weights_of(text, CELLS)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def asked(strategy, told: int, n: int = 64, seed: int = 0) -> np.ndarray:
    """What a strategy asks for in the space of cells after it was told of so many random ones."""
    state = strategy.init(CELLS)
    rows = np.asarray(every(CELLS))[np.random.default_rng(1).permutation(5**6)[:told]]
    if told:
        zeros = jnp.zeros(told, jnp.int32)
        state = strategy.tell(state, Observations(jnp.asarray(rows), zeros, jnp.ones((told, 1))))
    nobody = Proposals(jnp.full((1, 6), -1, jnp.int32), jnp.zeros(1, jnp.int32))
    ask = jax.jit(strategy.ask, static_argnums=2)
    found = np.asarray(ask(state, jr.key(seed), n, nobody).encodings)
    assert not (found[:, None] == rows[None]).all(-1).any()
    return found


def test_the_first_proposals_are_drawn_by_the_weights():
    weights = ((0.0, 1.0, 1.0, 2.0, 1.0),) * 6
    rows = np.concatenate([asked(Guided(RandomSearch(), weights, 10.0), 0, seed=seed) for seed in range(8)])
    shares = np.bincount(rows.ravel(), minlength=5) / rows.size
    np.testing.assert_allclose(shares, np.array(weights[0]) / 5, atol=0.03)
    assert shares[0] == 0


def test_what_is_believed_fades_as_trials_are_told():
    never = ((1.0, 0.0, 0.0, 0.0, 0.0), *((1.0,) * 5,) * 5)  # all else on the first edge is the strategy's own
    for told, share in ((10, 0.5), (90, 0.1)):
        rows = np.concatenate([asked(Guided(RandomSearch(), never, 10.0), told, seed=seed) for seed in range(8)])
        first = (rows[:, 0] == 0).mean()
        assert first == pytest.approx(share + (1 - share) / 5, abs=0.07)


def test_a_policy_does_not_learn_from_what_it_did_not_draw():
    own, always = Reinforce(), ((1.0, 0.0, 0.0, 0.0, 0.0),) * 6  # each proposal of the belief is of one operation
    state = (guided := Guided(own, always, 10.0)).init(CELLS)
    rows = jnp.asarray(every(CELLS)[5:15], jnp.int32)
    state = guided.tell(state, Observations(rows, jnp.zeros(10, jnp.int32), jnp.ones((10, 1))))
    nobody = Proposals(jnp.full((1, 6), -1, jnp.int32), jnp.zeros(1, jnp.int32))
    found = jax.jit(guided.ask, static_argnums=2)(state, jr.key(0), 64, nobody)
    known = np.isfinite(np.asarray(found.drawn.log_probability))
    assert 0.25 < known.mean() < 0.75
    np.testing.assert_array_equal(CELLS.canonical(found.drawn.rows), found.encodings)


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    """A made table of cells, which are the better the more of their edges are convolutions of 3 x 3."""
    folder = tmp_path_factory.mktemp("cells")
    place = OPS.index("nor_conv_3x3")
    lines = ["architecture,made_valid_error_e1"]
    for row in np.unique(np.asarray(CELLS.canonical(jnp.asarray(every(CELLS)))), axis=0):
        lines.append(f"{CELLS.describe(row)},{0.9 - 0.1 * (row == place).sum():.3f}")
    (folder / "cells.csv").write_text("\n".join(lines))
    words = ["table", "build", str(folder / "cells.csv"), "--space", "nasbench201", "--out", str(folder / "cells.npz")]
    assert main(words) == 0
    return folder / "cells.npz"


@pytest.fixture
def table(cells, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(cells, "cells.npz")
    return tmp_path


def search(*words: str) -> int:
    words = ("search", "--space", "nasbench201", "--task", "table:cells.npz", "--workers", "0", *words)
    return main([*words, "--trials", "20"])


def errors(name: str) -> list[float]:
    with Store("sqlite:///nas.db") as store:
        return [trial.measurements["error"] for trial in store.trials(store.run(name).id, "search")]


def test_a_search_with_a_right_belief_begins_better(table):
    for name, more in {"alone": (), "guided": ("--prior", "nor_conv_3x3=9")}.items():
        assert search("--strategy", "random", "--name", name, *more) == 0
    assert np.mean(errors("guided")) < np.mean(errors("alone")) - 0.05
    with Store("sqlite:///nas.db") as store:
        assert store.run("guided").given["prior"] == "nor_conv_3x3=9"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--strategy", "random", "--prior", "nor_conv=2"), "prior='nor_conv' is not one of avg_pool_3x3, none"),
        (("--strategy", "hyperband", "--strategy.budgets", "(1,2)", "--prior", "none=2"), "all of one budget"),
        (("--strategy", "gumbel-darts", "--prior", "none=2"), "needs a strategy that proposes"),
    ],
)
def test_a_prior_that_cannot_be_is_refused_before_anything_is_stored(table, capsys, words, said):
    assert search(*words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (table / "nas.db").exists()


@pytest.mark.slow
@pytest.mark.parametrize("more", [("--strategy", "bayesian"), ("--strategy", "ppo"), ("--prescreen", "gp")])
def test_any_strategy_takes_a_prior_and_its_predictor_can_be_saved(table, capsys, more):
    saves = "ppo" not in more
    words = (*more, "--prior", "nor_conv_3x3=9", *(("--save-predictor", "it") if saves else ()))
    assert search(*words, "--name", "guided") == 0
    capsys.readouterr()
    if saves:
        assert main(["predictors", "show", "it", "--format", "json"]) == 0
        (saved,) = json.loads(capsys.readouterr().out)
        assert saved["name"] == "it"
