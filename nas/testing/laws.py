"""What spaces, strategies, predictors and tasks promise, tried on one of them."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import nnx

from nas import registry
from nas.engine.proposals import check_form
from nas.errors import UsageError
from spaces.abilities import Mixable, Mixing, shares_weights
from spaces.base import Encodings, Space, fingerprint, sample
from strategies.base import GradientStrategy, Observations, Proposals
from strategies.region import region


class Broken(AssertionError):
    """A law that a part breaks."""


MOST_CHOICES = 2**31 - 1  # of a decision: an encoding is of int32


@contextlib.contextmanager
def lawful(field: str) -> Iterator[None]:
    """Laws of a part that a command was given are tried in it. Raises UsageError where one does not hold."""
    try:
        yield
    except Broken as broken:
        raise UsageError(f"{field} breaks a law: {broken}") from broken


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What a part raises where nobody foresaw it breaks a law too."""
    try:
        yield
    except (Broken, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise Broken(f"it can be called as its protocol says; found {registry.told(error)}") from error


def _law(holds: Any, law: str, tried: Any, found: Any) -> None:
    if not bool(holds):
        raise Broken(f"{law}; tried {_text(tried)}, found {_text(found)}")


def _text(value: Any) -> str:
    if isinstance(value, jax.Array | np.ndarray):
        value = np.asarray(value).tolist()
    try:
        text = " ".join(str(value).split())
    except Exception:  # what tells of the broken law must not break
        text = f"a {type(value).__name__}"
    return text if len(text) <= 200 else text[:200] + "..."


def _frozen(part: Any) -> None:
    name = type(part).__name__
    _law(not isinstance(part, type), "it is a value, and no class", part, f"a class; give {_called(part)}()")
    fields = getattr(part, "__dataclass_params__", None)
    _law(fields is not None and fields.frozen, "it is a frozen dataclass", name, "one that is not")
    _calls("it can be hashed", f"hash({name})", hash, part)
    twin = dataclasses.replace(part)
    same = _calls("values can be compared", part, lambda: twin == part)
    _law(same is True and hash(twin) == hash(part), "equal fields make equal values", part, twin)


def _called(part: Any) -> str:
    return part.__name__ if isinstance(part, type) else type(part).__name__


def _has(part: Any, names: str) -> None:
    for name in names.split():
        _calls(f"it has {name!r}", _called(part), getattr, part, name)


def _calls(law: str, tried: Any, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
    try:
        return call(*given, **named)
    except (Broken, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise Broken(f"{law}; tried {_text(tried)}, found {registry.told(error)}") from error


@_told()
def check_space(space: Space, *, samples: int = 64, networks: bool = True, seed: int = 0) -> None:
    """The laws of a search space, on random architectures. With `networks` two of them are also built and called, and
    the supernet where there is one.

    Raises Broken.
    """
    _frozen(space)
    _has(space, "cardinalities identity canonical describe parse cost build supernet")
    sizes = space.cardinalities
    whole = isinstance(sizes, tuple) and len(sizes) > 0 and all(type(size) is int for size in sizes)
    whole = whole and all(1 <= size <= MOST_CHOICES for size in sizes)
    _law(whole, f"cardinalities is a tuple of integers in 1..{MOST_CHOICES}", type(space).__name__, sizes)
    plain, again = (_calls("identity() is plain data", space, _plain, space) for _ in range(2))
    _law(isinstance(plain, dict), "identity() is a mapping", space, plain)
    _law(plain == again, "identity() is the same each time", plain, again)
    fingerprint(space)

    rows = sample(space, jr.key(seed), samples)
    canonical = _calls("canonical works in a jitted function", rows[0], jax.jit(space.canonical), rows)
    kept = canonical.shape == rows.shape and canonical.dtype == jnp.int32
    _law(kept, "canonical keeps shape and type (int32)", rows[0], f"{canonical.dtype}{canonical.shape}")
    inside = ((canonical >= 0) & (canonical < jnp.asarray(sizes)[None])).all(1)
    _first(inside, "canonical rows are choices of the space", rows, canonical)
    _first((space.canonical(canonical) == canonical).all(1), "canonical is idempotent", rows, canonical)
    jitted = jax.jit(space.cost)
    costs, cheapest = (_calls("cost works in a jitted function", rows[0], jitted, each) for each in (rows, canonical))
    by_name = isinstance(costs, dict) and all(isinstance(name, str) for name in costs)
    _law(by_name, "cost gives numbers by name", rows[0], type(costs).__name__)
    for name, values in costs.items():
        _law(values.shape == (samples,), f"cost gives a number of {name!r} for each row", samples, values.shape)
        _first(jnp.isfinite(values), f"the cost {name!r} is finite", rows, values)
        _first(cheapest[name] <= values, f"the canonical row is no dearer in {name!r}", rows, cheapest[name])
    for row in np.asarray(canonical)[:16]:
        text = _calls("describe takes an encoding", row, space.describe, row)
        _law(isinstance(text, str) and "\n" not in text, "describe gives one line of text", row, text)
        _law(space.describe(row) == text, "describe writes the same each time", row, text)
        back = np.asarray(_calls("parse reads what describe writes", text, space.parse, text))
        _law(_is_row(back, sizes), "parse gives choices of the space", text, back)
        same = space.canonical(jnp.asarray(back, jnp.int32)[None])[0]
        _law(np.array_equal(same, row), "parse reads back what describe writes", text, back)
    for odd in ("", "no architecture", "(9,9,9,9,9,9,9,9)"):
        _law(_refused(space, odd), "parse raises ValueError for what is no architecture", repr(odd), "no ValueError")
    for text, found in _beyond(space, np.asarray(canonical[0])):
        _law(_is_row(found, sizes), "parse refuses choices out of range", text, found)
    if isinstance(space, Mixable):
        _check_mixing(space, canonical[:16])
    if networks:
        for row in np.asarray(canonical)[:2]:
            network = _calls("build gives a network", row, space.build, row, jr.key(seed))
            params = _check_network(space, "build", network, row, (), seed)
            price = space.cost(jnp.asarray(row)[None])
            if params is not None and "params" in price:
                claimed = float(price["params"][0])
                right = abs(claimed - params) <= 1e-3 * params
                _law(right, "the cost 'params' is that of the built network", row, f"{claimed:.0f}, built {params}")
        if shares_weights(space):
            law = "supernet gives a network where supernets is not False"
            network = _calls(law, space, space.supernet, jr.key(seed))
            for row in np.asarray(canonical)[:2]:
                _check_network(space, "supernet", network, row, jnp.asarray(row), seed)


def _plain(space: Space) -> Any:
    return json.loads(json.dumps(space.identity(), sort_keys=True))


def _is_row(found: np.ndarray, sizes: tuple[int, ...]) -> bool:
    return found.shape == (len(sizes),) and bool(((found >= 0) & (found < np.asarray(sizes))).all())


def _beyond(space: Space, row: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Of rows with a choice out of range what they are called, and what parse makes of that where it takes it."""
    for i, size in enumerate(space.cardinalities[:16]):
        for choice in (-1, size):
            odd = row.astype(np.int64)
            odd[i] = choice
            with contextlib.suppress(Exception):  # such rows need no description, and parse should refuse it
                text = space.describe(odd)
                yield text, np.asarray(space.parse(text))


def _check_mixing(space: Mixable, rows: Encodings) -> None:
    """The laws of mixtures: those that stand for architectures, and any others."""
    mixing = _calls("mixing() says how a mixture is laid out", space, space.mixing)
    _law(isinstance(mixing, Mixing), "mixing() gives a spaces.abilities.Mixing", space, type(mixing).__name__)
    edges, n = len(mixing.nodes), len(mixing.ops)
    for name, (_, table) in mixing.costs.items():
        _law(table.shape == (edges, n), f"mixing().costs[{name!r}] is a number for each operation", edges, table.shape)
    ops = _calls("edge_ops takes encodings", rows[0], jax.jit(space.edge_ops), rows)
    _law(ops.shape == (len(rows), edges), "edge_ops gives an operation for each edge", rows[0], ops.shape)
    _first(((ops >= 0) & (ops < n)).all(1), "edge_ops are operations of mixing()", rows, ops)
    derive = jax.jit(jax.vmap(space.derive))
    own = jax.nn.one_hot(ops, n)
    found = _calls("derive takes a mixture [edges, ops]", ops[0], derive, own)
    _law(found.shape == rows.shape, "derive gives an encoding", ops[0], found.shape)
    again = space.edge_ops(found)
    _first((again == ops).all(1), "an architecture is derived from its own operations", rows, found)
    costs = space.cost(rows)
    for name, (fixed, table) in mixing.costs.items():
        sums = float(fixed) + (own * jnp.asarray(table, jnp.float32)[None]).sum((1, 2))
        right = jnp.abs(sums - costs[name]) <= 1e-4 * jnp.abs(costs[name])
        _first(right, f"mixing().costs[{name!r}] add up to the costs of architectures", rows, sums)
    weights = jax.nn.softmax(jr.normal(jr.key(0), (len(rows), edges, n)))
    found, cubed = derive(weights), derive(weights**3)
    inside = ((found >= 0) & (found < jnp.asarray(space.cardinalities)[None])).all(1)
    _first(inside, "what is derived is of the space", weights, found)
    _first((found == cubed).all(1), "only the order of the weights decides what is derived", weights, cubed)


def _refused(space: Space, text: str) -> bool:
    try:
        space.parse(text)
    except ValueError:
        return True
    except Exception:
        return False
    return False


def _first(holds: jax.Array, law: str, rows: jax.Array, found: Any) -> None:
    """The law for all rows, and in its complaint the first row for which it does not hold."""
    wrong = np.flatnonzero(~np.asarray(holds))
    if len(wrong):
        raise Broken(f"{law}; tried {_text(rows[wrong[0]])}, found {_text(found[wrong[0]])}")


def _check_network(space: Any, maker: str, network: Any, row: np.ndarray, path: Any, seed: int) -> int | None:
    """Calls a network with a path. The number of its parameters, where the space says what images it takes."""
    from nas.training.net import flatten, forward, split

    _law(isinstance(network, nnx.Module), f"{maker} gives a flax.nnx.Module", row, type(network).__name__)
    fields = ("image_size", "image_channels", "num_classes")
    if not all(hasattr(space, name) for name in fields):
        return None
    graph, weights, statistics = split(network)
    size, channels, classes = (getattr(space, name) for name in fields)
    images = jnp.asarray(np.random.default_rng(seed).normal(size=(2, size, size, channels)), jnp.float32)
    law = f"what {maker} gives is called with images, a path and train"
    # A supernet need have no statistics; what is built goes on by those that the batch has left.
    for train in (True, False)[: 2 if maker == "build" else 1]:
        logits, statistics = _calls(law, row, forward, graph, weights, statistics, images, path, train=train)
        if not classes:  # a head of the task's own ends it
            maps = isinstance(logits, tuple) and all(x.ndim == 4 and len(x) == 2 for x in logits)
            _law(maps, f"what {maker} gives are maps [n, height, width, channels]", row, type(logits).__name__)
            _law(all(bool(jnp.isfinite(x).all()) for x in logits), "maps are finite", row, logits)
            continue
        _law(logits.shape == (2, classes), f"what {maker} gives makes logits [n, num_classes]", row, logits.shape)
        _law(jnp.isfinite(logits).all(), "logits are finite", row, logits)
    return sum(array.size for array in flatten(weights).values())


@_told()
def check_strategy(strategy: Any, space: Space | None = None, *, trials: int = 40, seed: int = 0) -> None:
    """The laws of a strategy that proposes architectures: see `strategies.base.Strategy`. Raises Broken."""
    check_fields_of_strategy(strategy)
    space = _Numbers() if space is None else space
    for limits in ((), _half(space)):
        for n in sorted({1, strategy.generation}):
            _check_search(strategy, space, limits, n, trials, seed)


@_told()
def check_fields_of_strategy(strategy: Any) -> None:
    """Those laws of a strategy that need no search. Raises Broken."""
    _frozen(strategy)
    if isinstance(strategy, GradientStrategy):
        return
    _has(strategy, "init ask tell generation")
    asked = strategy.generation
    _law(type(asked) is int and asked >= 1, "generation is an integer of at least 1", strategy, asked)


def _half(space: Space) -> tuple[tuple[str, float], ...]:
    """A limit that half of the architectures keep."""
    name, values = next(iter(space.cost(sample(space, jr.key(0), 256)).items()))
    return ((name, float(jnp.median(values))),)


def _check_search(strategy: Any, space: Space, limits: Any, n: int, trials: int, seed: int) -> None:
    length, sizes = len(space.cardinalities), jnp.asarray(space.cardinalities)
    state = _calls("init gives a state", limits, strategy.init, space, limits)
    arrays = all(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(state))
    _law(arrays, "the state is a pytree of arrays", limits, state)
    first, ask, tell = state, jax.jit(strategy.ask, static_argnums=2), jax.jit(strategy.tell)
    nobody = Proposals(jnp.full((n, length), -1, jnp.int32), jnp.zeros(n, jnp.int32))
    told: list[Observations] = []
    region(space, limits)  # raises where no architecture keeps the limits
    for number in range(max(2, trials // n)):
        key, key_fail = jr.split(jr.fold_in(jr.key(seed), number))
        given = f"trial {number * n} with limits {limits} and n={n}"
        proposed = _calls("ask works in a jitted function", given, ask, state, key, n, nobody)
        _calls("ask gives n rows and budgets of int32", given, check_form, strategy, proposed, n, length)
        rows = proposed.encodings
        _first(((rows >= 0) & (rows < sizes[None])).all(1), "proposals are choices of the space", rows, rows)
        for name, most in limits:
            price = space.cost(rows)[name]
            _first(price <= most, f"proposals keep the limit {name} <= {most:g}", rows, price)
        again = ask(state, key, n, nobody)
        _law(_equal(proposed, again), "ask draws from its key alone", given, again.encodings)
        objectives = jnp.where(jr.uniform(key_fail, (n, 1)) < 0.1, jnp.nan, _score(rows)[:, None])  # some trials fail
        told.append(Observations(rows, proposed.budgets, objectives, proposed.drawn))
        before = state
        state = _calls("tell works in a jitted function", given, tell, state, told[-1])
        same = jax.tree.structure(state) == jax.tree.structure(before) and _shapes(state) == _shapes(before)
        _law(same, "tell keeps the structure of the state", given, jax.tree.structure(state))
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts), *told[:2])
    once, twice = tell(first, both), tell(tell(first, told[0]), told[1])
    _law(_equal(once, twice), "two tells are one tell of both", f"{2 * n} observations", "another state")
    never = sample(space, jr.key(seed + 1), 3)
    strange = Observations(never, jnp.zeros(3, jnp.int32), jnp.array([[0.5], [jnp.nan], [0.1]]))
    after = _calls("tell takes what was never asked", strange.encodings, tell, state, strange)
    rows = ask(after, jr.key(seed), n, nobody).encodings
    _first(((rows >= 0) & (rows < sizes[None])).all(1), "proposals are choices of the space", rows, rows)


def _score(rows: Encodings) -> jax.Array:
    return jnp.sin(rows.astype(jnp.float32) + jnp.arange(rows.shape[1])[None]).sum(1)


def _leaves(tree: Any) -> Iterator[np.ndarray]:
    for leaf in jax.tree.leaves(tree):
        yield np.asarray(jr.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def _shapes(tree: Any) -> list[Any]:
    return [(leaf.shape, leaf.dtype) for leaf in _leaves(tree)]


def _equal(one: Any, other: Any) -> bool:
    def same(a: np.ndarray, b: np.ndarray) -> bool:
        return np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) if a.dtype.kind == "f" else np.array_equal(a, b)

    return all(same(a, b) for a, b in zip(_leaves(one), _leaves(other), strict=True))


@dataclasses.dataclass(frozen=True)
class _Numbers:
    """A space of no networks: six decisions of four choices, and a cost that is their sum."""

    cardinalities: tuple[int, ...] = (4,) * 6

    def identity(self) -> dict:
        return {"cardinalities": self.cardinalities}

    def canonical(self, encodings: Encodings) -> Encodings:
        return encodings

    def describe(self, encoding: np.ndarray) -> str:
        return "-".join(str(int(choice)) for choice in encoding)

    def parse(self, text: str) -> np.ndarray:
        return np.array([int(word) for word in text.split("-")], np.int32)

    def cost(self, encodings: Encodings) -> dict[str, jax.Array]:
        return {"sum": encodings.sum(1).astype(jnp.float32)}

    def supernet(self, key: jax.Array, *, affine: bool = False) -> Any:
        raise NotImplementedError

    def build(self, encoding: np.ndarray, key: jax.Array) -> Any:
        raise NotImplementedError


@_told()
def check_predictor(predictor: Any, space: Space | None = None, *, seed: int = 0) -> None:
    """The laws of a predictor: see `predictors.base.Predictor`. Raises Broken."""
    _has(predictor, "fit predict")
    _frozen(predictor)
    space = _Numbers() if space is None else space
    rows = sample(space, jr.key(seed), 60)
    targets = _score(rows)
    fit = jax.jit(lambda targets: predictor.fit(space, rows, targets, None))
    fitted = _calls("fit works in a jitted function", "60 rows", fit, targets)
    mean, deviation = _calls("predict works in a jitted function", "60 rows", jax.jit(predictor.predict), fitted, rows)
    for name, values in (("mean", mean), ("standard deviation", deviation)):
        _law(values.shape == (60,), f"predict gives a {name} for each row", 60, values.shape)
        _first(jnp.isfinite(values), f"the {name} is finite", rows, values)
    _first(deviation >= 0, "the standard deviation is not negative", rows, deviation)
    again = fit(targets)
    _law(_equal(fitted, again), "the same rows give the same fit", "60 rows", "another one")
    failed = targets.at[::7].set(jnp.nan)
    mean, _ = predictor.predict(predictor.fit(space, rows, failed, None), rows)
    _first(jnp.isfinite(mean), "failed rows (NaN) are left out of the fit", rows, mean)


@_told()
def check_task(part: Any) -> None:
    """That a task of one's own, a function or what it gives, can be searched on. Raises Broken."""
    from nas.tasks.base import own_images, split

    try:
        raw = own_images("own", part)
        task = split("own", *raw.train, raw.num_classes, valid=raw.valid, test=raw.test, classes=raw.classes)
        again = own_images("own", part)
    except UsageError as error:
        raise Broken(str(error)) from error
    same = all(np.array_equal(a, b) for a, b in zip(raw.train, again.train, strict=True))
    _law(same, "a task gives the same data each time", "two calls", "different ones")
    _law(len(set(task.train.labels.tolist())) >= 2, "there are two classes or more", task.classes, task.train.labels)
