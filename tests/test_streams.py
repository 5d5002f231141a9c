"""Random numbers have addresses: no two are the same, nobody makes up others, and none is used twice."""

import ast
import collections
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from conftest import Toy

import nas
from nas import streams
from nas.evaluators import proxies
from nas.streams import generator, stream
from nas.training import schedule
from nas.training.bilevel import Rule, search
from nas.training.recipe import Recipe
from predictors import predictor_class
from spaces.nasbench201 import NasBench201
from spaces.shufflenet import ShuffleNet
from strategies import strategy_class

ROOT = Path(__file__).parents[1]
PURPOSES = {name: value for name, value in vars(streams).items() if name.isupper()}


def test_purposes_are_a_closed_list_that_keeps_its_numbers():
    assert sorted(PURPOSES.values()) == list(range(len(PURPOSES)))
    first = ("WEIGHTS", "PATHS", "SEARCH", "BASELINE", "TRAINING", "OWN_WEIGHTS", "OWN_TRAINING", "HALVES")
    assert [PURPOSES[name] for name in first] == list(range(8))


def test_the_keys_of_a_search_are_what_they_have_always_been():
    for seed in (0, 1, 123):
        assert stream(seed, streams.SEARCH) == jr.fold_in(jr.key(seed), 2)


def numbers(draw: np.random.Generator) -> bytes:
    return draw.integers(2**32, size=4).tobytes()


def test_no_two_addresses_have_the_same_numbers():
    keys, drawn = [jr.key(seed) for seed in range(3)], [numbers(np.random.default_rng(seed)) for seed in range(3)]
    for seed, purpose in itertools.product(range(3), PURPOSES.values()):
        key = stream(seed, purpose)
        keys += [key, *(jr.fold_in(key, i) for i in range(20))]
        drawn += [numbers(generator(seed, purpose, *below)) for below in ((), (0,), (1,), (0, 0), (0, 1), (1, 0))]
    assert len({np.asarray(jr.key_data(key)).tobytes() for key in keys}) == len(keys)
    assert len(set(drawn)) == len(drawn)


# Keys of a number that are no run's. Where arrays take the place of weights, these may begin as they like.
FIXED = {
    "nas/evaluators/supernet.py": "a network whose weights are replaced",
    "nas/evaluators/train.py": "a network that is thrown away",
    "nas/training/distillation.py": "a network whose weights are replaced",
    "nas/latency/measuring.py": "networks that are timed, of a seed of their own",
    "nas/report/importance.py": "what a forest is fitted to and tried on, for a report",
    "nas/report/plots.py": "how far lines of a plot lie apart",
    "nas/saved/descriptions.py": "a network whose weights are replaced",
    "nas/job/shared.py": "a network whose weights are replaced",
    "spaces/binary_width.py": "a network whose weights are replaced",
    "spaces/darts.py": "a network whose weights are replaced",
    "spaces/layers.py": "the generator of a key",
    "predictors/features.py": "what features are scaled by, which saved predictors rest on",
    "nas/tasks/base.py": "the splits of a task",
    "nas/testing/faults/jobs.py": "the table that made jobs search",
    "nas/testing/faults/rounds.py": "which fault is injected where",
    "nas/training/net.py": "a network of which only the shapes are looked at",
    "nas/tasks/detection/scenes.py": "the pictures of a made task, the same for everybody",
    "strategies/ppo.py": "the initial weights of the controller",
    "strategies/visited.py": "the factors of a hash",
}
LAWS = "nas/testing/laws/"  # what laws are tried on


def test_nobody_makes_keys_or_generators_of_a_seed_but_streams():
    made = set()
    for top in ("nas", "spaces", "strategies", "predictors"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                    *("jr.key", "jax.random.key", "jr.PRNGKey", "jax.random.PRNGKey"),
                    *("np.random.default_rng", "np.random.SeedSequence"),
                ):
                    made.add(str(path.relative_to(ROOT)))
    assert {path for path in made if not path.startswith(LAWS)} - {"nas/streams.py"} <= FIXED.keys()


DRAWS = ("normal", "uniform", "randint", "bernoulli", "gumbel", "categorical", "permutation", "loggamma", "choice")


class Uses:
    """What was done with each key, by its bits, and which generators were made."""

    def __init__(self, monkeypatch):
        self.keys: dict[bytes, list[str]] = collections.defaultdict(list)
        self.generators: list[str] = []
        for name in (*DRAWS, "split", "fold_in"):
            monkeypatch.setattr(jr, name, self._heard(name, getattr(jr, name)))
        real = np.random.default_rng

        def made(seed):
            if isinstance(seed, np.random.SeedSequence):
                self.generators.append(f"{seed.entropy} {seed.spawn_key}")
            elif isinstance(seed, np.ndarray):
                self._note("generator", seed)  # of a key
            return real(seed)

        monkeypatch.setattr(np.random, "default_rng", made)

    def _note(self, name, data):
        self.keys[np.asarray(data).tobytes()].append(name)

    def _heard(self, name, real):
        def wrapped(key, *args, **how):
            # When it runs, not when it is traced: a loop's keys differ.
            jax.debug.callback(lambda data: self._note(name, data), jr.key_data(key))
            return real(key, *args, **how)

        return wrapped

    def twice(self, ignored=()) -> list[list[str]]:
        """The uses of keys that are drawn from twice, or divided too, or divided in two ways."""
        jax.effects_barrier()
        keys = {bits: uses for bits, uses in self.keys.items() if bits not in ignored}
        odd = [uses for uses in keys.values() if len(uses) > 1 and set(uses) != {"fold_in"}]
        return odd + [[each] for each, count in collections.Counter(self.generators).items() if count > 1]


NOTHING = np.zeros(2, np.uint32).tobytes()  # key 0: of weights that others take the place of


@pytest.fixture
def uses(monkeypatch):
    jax.clear_caches()  # what is traced already would not be heard
    for cached in (proxies._initial, schedule._order):
        cached.cache_clear()
    yield Uses(monkeypatch)
    jax.clear_caches()


def test_a_key_that_is_used_twice_is_noticed(uses):
    key = jr.key(7)
    jax.jit(lambda key: jr.normal(key) + jr.uniform(jr.fold_in(key, 1)))(key)
    assert uses.twice() == [["normal", "fold_in"]] or uses.twice() == [["fold_in", "normal"]]


BLOCKS = {"blocks": [2], "widths": [8], "strides": [1], "stem_width": 8, "stem_stride": 2, "last_width": 16}
JOB = {
    "space": {"name": "shufflenet", **BLOCKS},
    "max_images": 200,
    "training": {"steps": 5, "batch_size": 8, "flip": True, "cutout": 2, "mixup": 0.2},
    "final": {"steps": 3, "batch_size": 8, "flip": True, "mixup": 0.2},
    "strategy": "random",
    "trials": 3,
    "baselines": 0,
    "workers": 0,
}


def test_a_run_uses_no_address_twice(uses, tmp_path):
    """Shared weights, their evaluation, a search, and the training of what was found: all of one seed."""
    nas.search(**JOB, store=f"sqlite:///{tmp_path / 'x.db'}")
    assert uses.twice({NOTHING}) == []
    assert len(uses.keys) > 30
    assert len(uses.generators) >= 3  # both orders of images, and those of the calibration


def test_scores_without_training_use_no_address_twice(uses, task):
    space = ShuffleNet((2,), (8,), (1,), 8, 2, 16, image_size=8, image_channels=1, num_classes=3)
    proxies.batch(task, 0, 8)
    weights = [jax.tree.leaves(proxies._initial(space, task.kind, 0, i)[1]) for i in range(2)]
    assert all((one != other).any() for one, other in zip(*weights, strict=True))
    assert uses.twice() == []
    assert stream(0, streams.WEIGHTS) not in [jr.wrap_key_data(np.frombuffer(key, np.uint32)) for key in uses.keys]


@pytest.mark.slow
def test_a_differentiable_search_uses_no_address_twice(uses, task):
    space = NasBench201(width=4, cells=1, image_size=8, image_channels=1, num_classes=3)
    strategy = strategy_class("gumbel-darts")()
    search(Rule(strategy, space, ()), task, Recipe(batch_size=60), seed=0, epochs=1)
    # A step's mixture is drawn again for its gradient, which is to be that of the same mixture.
    assert {tuple(odd) for odd in uses.twice()} <= {("gumbel", "gumbel")}
    assert len(uses.keys) > 8


@pytest.mark.parametrize("name", [pytest.param("seminas", marks=pytest.mark.slow), "gates", "mlp-ensemble"])
def test_a_predictor_uses_no_address_twice(name, uses):
    more = {"unlabelled": 12} if name == "seminas" else {}
    predictor = predictor_class(name)(hidden=4, members=2, steps=2, batch_size=4, **more)
    rows = jnp.asarray(np.arange(12)[:, None] // np.array([[1, 2, 16, 4, 8, 16]]) % 2, jnp.int32)
    jax.block_until_ready(jax.jit(predictor.fit, static_argnums=0)(Toy(), rows, jnp.linspace(0.0, 1.0, 12)))
    assert uses.twice({NOTHING}) == []
    mine = {np.asarray(jr.key_data(stream(0, purpose))).tobytes() for purpose in PURPOSES.values()}
    assert mine & uses.keys.keys() == {np.asarray(jr.key_data(stream(0, streams.PREDICTOR))).tobytes()}
