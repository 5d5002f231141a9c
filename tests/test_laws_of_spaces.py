"""Each law of spaces is broken by a space that keeps all others before it, and `nas.testing` says which."""

import dataclasses
import itertools
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Toy
from flax import nnx

from nas import testing
from nas.testing.laws.names import KINDS, SPACE, members
from predictors.linear import Linear
from spaces.abilities import Decision, Drawing, Graph, Mixing
from spaces.shared import OneHot


def kind(base, **kept):
    """A space whose class has these besides, or instead."""
    return dataclasses.dataclass(frozen=True, eq="__eq__" not in kept)(type("Odd", (base,), kept))()


def toy(**kept):
    return kind(Toy, **kept)


def broken(space, **how) -> str:
    """What is said of the law that it breaks."""
    with pytest.raises(testing.Broken) as found:
        testing.check_space(space, samples=8, **how)
    assert len(str(found.value).splitlines()) == 1
    return str(found.value)


class Raising:
    def __init__(self, error):
        self.error = error

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        raise self.error

    def __set__(self, instance, value):
        """A frozen dataclass sets it all the same."""


NUMBERS = itertools.count()


def counted(*texts):
    """A function that gives another text each time."""
    left = list(texts) * 10**4
    return lambda *given: left.pop()


def shifted(self, rows):
    return (rows + 1) % jnp.asarray(self.cardinalities)[None]


def dearer(self, rows):
    return {"macs": jnp.where(rows[:, 0] == 0, rows[:, 1], -rows[:, 1]).astype(jnp.float32) * -1}


def parsed(text):
    row = np.array([int(word) for word in text.split("-")], np.int32)
    if len(row) != 6:
        raise ValueError(text)
    return row


def gullible(self, text):
    return np.zeros(6, np.int32) if not text else Toy.parse(self, text)


LAWS = {
    "a class": (lambda: Toy, "it is a value, and no class"),
    "not frozen": (lambda: dataclasses.dataclass(type("Odd", (), {}))(), "it is a frozen dataclass"),
    "no hash": (lambda: Toy([2, 3, 1, 4, 4, 4]), "it can be hashed"),
    "no comparison": (lambda: toy(__eq__=lambda *_: 1 / 0, __hash__=lambda _: 1), "values can be compared"),
    "never equal": (lambda: toy(__eq__=lambda *_: False, __hash__=lambda _: 1), "equal fields make equal values"),
    "nothing": (
        dataclasses.dataclass(frozen=True)(type("Odd", (), {"cardinalities": (2,)})),
        "it must have 'identity'",
    ),
    "no cardinalities": (lambda: toy(cardinalities=Raising(KeyError("x"))), "found KeyError"),
    "too many choices": (lambda: Toy((10**12, 2)), "cardinalities is a tuple of integers in 1..2147483647"),
    "mixed keys": (lambda: toy(identity=lambda self: {1: 1, "a": 2}), "identity() is plain data"),
    "a list as identity": (lambda: toy(identity=lambda self: [1]), "identity() is a mapping"),
    "another identity": (lambda: toy(identity=lambda self: {"number": next(NUMBERS)}), "is the same each"),
    "canonical by NumPy": (lambda: toy(canonical=lambda _, rows: np.array(rows)), "canonical works in a jitted"),
    "shorter rows": (lambda: toy(canonical=lambda _, rows: rows[:, 1:]), "canonical keeps shape and type (int32)"),
    "rows of floats": (lambda: toy(canonical=lambda _, rows: rows * 1.0), "canonical keeps shape and type (int32)"),
    "rows of 4": (lambda: toy(canonical=lambda _, rows: rows * 0 + 4), "canonical rows are choices of the space"),
    "other rows": (lambda: toy(canonical=shifted), "canonical is idempotent; tried ["),
    "cost by NumPy": (lambda: toy(cost=lambda _, rows: {"macs": np.array(rows).sum(1)}), "cost works in a jitted"),
    "an array as cost": (lambda: toy(cost=lambda _, rows: rows.sum(1)), "cost gives numbers by name"),
    "a list as cost": (lambda: toy(cost=lambda _, rows: [1.0]), "cost gives numbers by name"),
    "one cost": (lambda: toy(cost=lambda _, rows: {"macs": rows.sum()}), "cost gives a number of 'macs' for each row"),
    "no number": (lambda: toy(cost=lambda _, rows: {"macs": rows.sum(1) / 0}), "the cost 'macs' is finite"),
    "dearer": (lambda: toy(cost=dearer), "the canonical row is no dearer in 'macs'"),
    "the end": (lambda: toy(cost=lambda *_: sys.exit(0)), "SystemExit: 0"),
    "no name": (lambda: toy(describe=lambda *_: 1 / 0), "describe takes an encoding"),
    "two lines": (lambda: toy(describe=lambda *_: "a\nb"), "describe gives one line of text"),
    "another name": (lambda: toy(describe=counted("0-0-0-0-0-0", "1-0-0-0-0-0")), "describe writes the same each time"),
    "unread": (lambda: toy(parse=lambda *_: 1 / 0), "parse reads what describe writes"),
    "a short row": (lambda: toy(parse=lambda _, text: parsed(text)[1:]), "parse gives choices of the space"),
    "forgotten": (lambda: toy(parse=lambda self, text: Toy.parse(self, text) * 0), "parse reads back what describe"),
    "gullible": (lambda: toy(parse=gullible), "parse raises ValueError for what is no architecture; tried ''"),
    "what is out of range": (lambda: toy(parse=lambda _, text: parsed(text)), "parse refuses choices out of range"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", LAWS)
def test_a_broken_law_of_spaces_is_told(name):
    make, said = LAWS[name]
    assert said in broken(make(), networks=False)


class Net(nnx.Module):
    """Logits, or with no classes a map."""

    def __init__(self, space, params=None):
        self.classes, self.weight = space.num_classes, nnx.Param(np.ones(params or space.params, np.float32))

    def __call__(self, images, path=(), *, train=False, key=None):
        total = images.mean((1, 2, 3))[:, None] * self.weight.get_value().sum()
        return total * jnp.ones((1, self.classes)) if self.classes else (total[:, :, None, None],)


@dataclasses.dataclass(frozen=True)
class Built(Toy):
    """A toy of which each network has 10 parameters."""

    image_size: int = 4
    image_channels: int = 1
    num_classes: int = 3

    params = 10

    def cost(self, encodings):
        return {"params": jnp.full(len(encodings), 10.0)}

    def build(self, encoding, key):
        return Net(self)

    def supernet(self, key, *, affine=False):
        return Net(self, 20)


def called(call):
    """Networks that are called so."""
    return type("Odd", (Net,), {"__call__": call})


def built(call=None, maker="build", num_classes=3, **kept):
    """A space of which this maker's networks are called so."""
    if call is not None:
        kept[maker] = lambda self, *_, **__: called(call)(self)
    return dataclasses.replace(kind(Built, **kept), num_classes=num_classes)


NETWORKS = {
    "not built": (built(build=lambda *_: 1 / 0), "build gives a network"),
    "no network": (built(build=lambda *_: 3), "build gives a flax.nnx.Module"),
    "more parameters": (built(params=11), "the cost 'params' is that of the built network"),
    "without train": (built(lambda self, images, path: images), "what build gives is called with images, a path and"),
    "flat": (built(lambda _, images, *__, **___: images), "what build gives makes logits [n, num_classes]"),
    "maps of classes": (built(lambda *_, **__: ()), "what build gives makes logits [n, num_classes]"),
    "infinite": (built(lambda *_, **__: jnp.full((2, 3), jnp.inf)), "logits are finite"),
    "no maps": (built(lambda *_, **__: jnp.zeros((2, 1)), num_classes=0), "what build gives are maps [n, height"),
    "wild maps": (built(lambda *_, **__: (jnp.full((2, 1, 1, 1), jnp.nan),), num_classes=0), "maps are finite"),
    "no supernet": (built(supernet=Toy.supernet), "supernet gives a network where supernets is not False"),
    "a strange supernet": (built(lambda *_, **__: 1 / 0, "supernet"), "what supernet gives is called with images"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_broken_law_of_networks_is_told(name):
    space, said = NETWORKS[name]
    assert said in broken(space)


def test_networks_that_keep_the_laws_pass():
    testing.check_space(Built(), samples=8)
    testing.check_space(built(num_classes=0), samples=8)
    testing.check_space(built(supernet=Toy.supernet, supernets=False), samples=8)


class Mixes(Net):
    def __call__(self, images, path=(), *, train=False, key=None):
        share = path.weights.sum() if isinstance(path, OneHot) else jnp.asarray(path, jnp.float32).sum()
        return super().__call__(images) * share


@dataclasses.dataclass(frozen=True)
class Cells(Built):
    """Four edges of three operations, of which the last edge has two."""

    cardinalities: tuple[int, ...] = (3, 3, 3, 2)

    def canonical(self, encodings):
        return encodings

    def cost(self, encodings):
        table = jnp.asarray(TABLE[0], jnp.float32)
        return {"params": 10.0 + 0 * encodings[:, 0], "macs": 5 + table[encodings].sum(1)}

    def mixing(self):
        costs = {"macs": (5, TABLE)}
        return Mixing(("none", "skip", "conv"), (1, 2, 2, 3), (1.0,) * 4, 4, costs, 1, 0, 1, counts=(3, 3, 3, 2))

    def edge_ops(self, encodings):
        return encodings

    def derive(self, mixture):
        return mixture.argmax(1).astype(jnp.int32)

    def supernet(self, key, *, affine=False):
        return Mixes(self)


TABLE = np.tile([0, 1, 4], (4, 1))


def cells(**kept):
    return kind(Cells, **kept)


def laid(**fields):
    """Cells whose mixing has these fields."""
    return cells(mixing=lambda self: Cells.mixing(self)._replace(**fields))


def proud(self, mixture):
    """Takes an operation only where it has most of the weight."""
    return jnp.where(mixture.max(1) > 0.9 * mixture.sum(1), mixture.argmax(1), 0).astype(jnp.int32)


def outside(self, mixture):
    """Goes astray where there is no one-hot mixture."""
    return jnp.where(mixture.max(1) > 0.99, mixture.argmax(1), 3).astype(jnp.int32)


MIXTURES = {
    "no mixing": (cells(mixing=lambda _: 1 / 0), "mixing() says how a mixture is laid out; tried "),
    "another mixing": (cells(mixing=lambda _: ()), "mixing() gives a spaces.abilities.Mixing"),
    "no edges": (laid(nodes=()), "mixing() has edges and operations"),
    "short kept": (laid(kept=(1.0,)), "mixing().kept is in (0, 1] for each edge"),
    "nothing kept": (laid(kept=(0.0,) * 4), "mixing().kept is in (0, 1] for each edge"),
    "normal": (laid(normal=77), "mixing().normal is in 0..4"),
    "partial": (laid(partial=0), "mixing().partial is at least 1"),
    "none": (laid(none=99), "mixing().none is an operation, in 0..2, or None"),
    "skip": (laid(skip=-1), "mixing().skip is an operation, in 0..2, or None"),
    "skip and none": (laid(skip=0), "mixing().skip is another operation than none"),
    "short counts": (laid(counts=(3, 3)), "mixing().counts is in 1..3 for each edge, or None"),
    "counts": (laid(counts=(3, 3, 3, 4)), "mixing().counts is in 1..3 for each edge, or None"),
    "fewer operations": (laid(counts=(1,) * 4), "edge_ops are operations of mixing()"),
    "short costs": (laid(costs={"macs": (5, TABLE[:2])}), "mixing().costs['macs'] is a number for each operation"),
    "unknown costs": (laid(costs={"ms": (5, TABLE)}), "mixing().costs are some of cost"),
    "cheap": (laid(costs={"macs": (5, 2 * TABLE)}), "mixing().costs['macs'] add up to the costs of architectures"),
    "edge_ops by NumPy": (cells(edge_ops=lambda _, rows: np.array(rows)), "edge_ops takes encodings"),
    "fewer edges": (cells(edge_ops=lambda _, rows: rows[:, 1:]), "edge_ops gives an operation for each edge"),
    "strange operations": (cells(edge_ops=lambda _, rows: rows + 3), "edge_ops are operations of mixing()"),
    "no derive": (cells(derive=lambda *_: 1 / 0), "derive takes a mixture [edges, ops]"),
    "a short row": (cells(derive=lambda _, mixture: mixture.argmax(1)[1:]), "derive gives an encoding"),
    "backwards": (cells(derive=lambda _, mixture: mixture.argmin(1)), "an architecture is derived from its own"),
    "proud": (cells(derive=proud), "only the order of the weights decides what is derived"),
    "outside": (cells(derive=outside), "what is derived is of the space"),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_a_broken_law_of_mixtures_is_told(name):
    space, said = MIXTURES[name]
    assert said in broken(space, networks=False)


def of_paths(self, images, path=(), *, train=False, key=None):
    assert np.ndim(path) < 2
    return Net.__call__(self, images)


def of_decisions(self, images, path=(), *, train=False, key=None):
    assert np.ndim(path) == 2 or len(path) == 4
    return Net.__call__(self, images)


class Keeping(Net):
    """Keeps statistics of mixtures too."""

    def __init__(self, space):
        super().__init__(space)
        self.mean = nnx.BatchStat(np.zeros(()))

    def __call__(self, images, path=(), *, train=False, key=None):
        self.mean.set_value(jnp.ones(()))
        return super().__call__(images)


def paired(self, encodings):
    """Edges are other than decisions."""
    return jnp.concatenate([encodings, encodings[:, :1]], 1)


SUPERNETS = {
    "of paths": (cells(supernet=lambda self, *_, **__: called(of_paths)(self)), "with images, a mixture and train"),
    "keeping": (cells(supernet=lambda self, *_, **__: Keeping(self)), "a mixture leaves no statistics"),
    "of decisions": (
        cells(
            supernet=lambda self, *_, **__: called(of_decisions)(self),
            edge_ops=paired,
            derive=lambda self, mixture: Cells.derive(self, mixture[:4]),
            mixing=lambda self: Cells.mixing(self)._replace(
                nodes=(1, 2, 2, 3, 3), kept=(1.0,) * 5, counts=(3, 3, 3, 2, 3), costs={}
            ),
        ),
        "what supernet gives is called with images, a path and train",
    ),
    "not pruned": (cells(pruned=lambda *_: 1 / 0), "pruned gives a network"),
    "pruned to nothing": (cells(pruned=lambda *_: 3), "pruned gives a flax.nnx.Module"),
    "cut": (cells(pruned=lambda self, *_: called(lambda *_, **__: 1 / 0)(self)), "what pruned gives is called with"),
}


@pytest.mark.parametrize("name", SUPERNETS)
def test_a_broken_law_of_supernets_is_told(name):
    space, said = SUPERNETS[name]
    assert said in broken(space)


def test_supernets_that_keep_the_laws_pass():
    testing.check_space(cells(pruned=lambda self, *_: Net(self)), samples=8)
    testing.check_space(laid(one_hot=True), samples=8)


def words(*sizes):
    return tuple(Decision(f"decision {i}", ("a",) * size) for i, size in enumerate(sizes))


def scored(found):
    return toy(scores={"a": np.zeros(3)}, scores_of=lambda _, rows: found(rows))


def varied(kinds, shapes=((8, 8, 4),)):
    return toy(map_shapes=lambda _: shapes, map_kinds=lambda _, rows: kinds(rows))


def drawn(nodes, edges, **more):
    return toy(drawings=lambda *_: [Drawing("a", nodes, edges, **more)])


ABILITIES = {
    "no words": (toy(decisions=lambda _: 1 / 0), "decisions() says what is decided"),
    "a list of words": (toy(decisions=lambda _: []), "decisions() gives a tuple"),
    "texts": (toy(decisions=lambda _: ("a",)), "decisions() gives spaces.abilities.Decision"),
    "few words": (toy(decisions=lambda _: words(2)), "decisions() has a word for each choice of each decision"),
    "few choices": (toy(decisions=lambda _: words(2, 3, 1, 4, 4, 3)), "decisions() has a word for each choice"),
    "no graph": (toy(graph=lambda _: 1 / 0), "graph() says where decisions lie"),
    "a list as graph": (toy(graph=lambda _: []), "graph() gives a spaces.abilities.Graph"),
    "a way back": (toy(graph=lambda _: Graph(2, ((1, 0, 0),))), "edges of graph() lead to later nodes"),
    "a strange decision": (toy(graph=lambda _: Graph(2, ((0, 1, 99),))), "edges of graph() carry decisions"),
    "a strange choice": (toy(graph=lambda _: Graph(2, ((0, 1, 0),), 9)), "graph().blocked is a choice, or None"),
    "maps": (toy(maps=lambda _: 1 / 0), "maps() says what networks give"),
    "no maps": (toy(maps=lambda _: ()), "maps() gives strides and channels"),
    "coarse maps": (toy(maps=lambda _: ((8, 4), (4, 4))), "maps() begins with the finest"),
    "no drawings": (toy(drawings=lambda *_: 1 / 0), "drawings takes an encoding"),
    "words": (toy(drawings=lambda *_: ["a"]), "drawings gives spaces.abilities.Drawing"),
    "loose edges": (drawn(("a",), ((0, 1, ""),)), "edges of drawings join their nodes"),
    "few places": (drawn(("a", "b"), (), places=((0, 0),)), "drawings have a place for each node, or None"),
    "features by NumPy": (toy(features=lambda _, rows: (np.array(rows),)), "features works in a jitted function"),
    "one feature": (toy(features=lambda _, rows: rows * 1.0), "features gives groups of numbers"),
    "flat features": (toy(features=lambda _, rows: (rows.sum(1) * 1.0,)), "features are [n, d]"),
    "no numbers": (toy(features=lambda _, rows: (rows / 0,)), "features are finite"),
    "scores by NumPy": (scored(np.array), "scores_of works in a jitted function"),
    "more scores": (scored(lambda rows: rows * 1.0), "scores_of gives all scores"),
    "no shapes": (toy(map_shapes=lambda _: 1 / 0, map_kinds=lambda *_: 0), "map_shapes() says what maps there are"),
    "kinds by NumPy": (varied(np.array), "map_kinds works in a jitted function"),
    "rows of kinds": (varied(lambda rows: rows), "map_kinds gives a kind for each row"),
    "strange kinds": (varied(lambda rows: rows[:, 0] * 0 + 1), "map_kinds are some of map_shapes()"),
    "equivalents by NumPy": (toy(equivalents=lambda _, rows, n: np.array(rows)), "equivalents works in a jitted"),
    "short equivalents": (toy(equivalents=lambda _, rows, n: rows[:, 1:]), "equivalents keeps the shape"),
    "strange choices": (toy(equivalents=lambda _, rows, n: rows + 4), "equivalents are choices of the space"),
    "other networks": (toy(equivalents=lambda self, rows, n: shifted(self, rows)), "equivalents are other ways to"),
}


@pytest.mark.parametrize("name", ABILITIES)
def test_a_broken_law_of_an_ability_is_told(name):
    space, said = ABILITIES[name]
    assert said in broken(space, networks=False)


def test_abilities_that_keep_their_laws_pass():
    able = toy(
        decisions=lambda self: words(*self.cardinalities),
        graph=lambda _: Graph(3, ((0, 1, 0), (1, 2, 5)), 3),
        maps=lambda _: ((4, 4), (8, 4)),
        drawings=lambda *_: [Drawing("a", ("a", "b"), ((0, 1, ""),), ((0, 0), (1, 0)))],
        features=lambda _, rows: (rows * 1.0, rows[:, :1] * 1.0),
        scores={"a": np.zeros(3)},
        scores_of=lambda _, rows: rows[:, :1] * 1.0,
        map_shapes=lambda _: ((8, 8, 4), (4, 4, 4)),
        map_kinds=lambda _, rows: rows[:, 0],
        equivalents=lambda self, rows, n: rows.at[:, 1].set(jnp.where(rows[:, 0] == 0, n % 3, rows[:, 1])),
    )
    testing.check_space(able, samples=8, networks=False)


VALUES = {
    "supernets": False,
    "cells_train": True,
    "one_bit": False,
    "recipes": {"training": {}},
    "map_widths": (4,),
    "scores": {},
    "space": Toy(),
    "budgets": (1, 3),
    "budget": 5,
    "eta": 3,
    "seeds_at_once": 1,
    "predictor": Linear(),
    "sizes": (64, 256),
}


@pytest.mark.parametrize("ability", SPACE, ids=lambda ability: ability.__name__)
def test_what_has_the_name_of_an_ability_of_spaces_by_chance_is_told(ability):
    right = {name: VALUES.get(name, lambda *_: None) for name in members(ability)}
    for name, is_method in members(ability).items():
        space = toy(**(right | {name: 32}))
        assert broken(space).startswith(f"field {name!r} is the name of an ability, ")
        assert is_method == (name not in KINDS)


def test_values_of_abilities_are_of_their_kinds():
    assert VALUES.keys() == KINDS.keys()
    for name, (_, holds) in KINDS.items():
        assert holds(VALUES[name]), name
        assert not any(map(holds, ("no", 0.5, -1, None, (0.5,)))), name
    assert not any(KINDS[name].holds((3, 2)) for name in ("budgets", "sizes"))
    assert not KINDS["recipes"].holds({"training": 1})
