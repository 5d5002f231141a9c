"""The configuration: a file and flags that say the same are the same, and every mistake is one line with the field."""

import argparse
import dataclasses
import itertools
import json
import math
import re
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import of_one_budget

from nas import config
from nas.config import Config, build, moved, parse, same_part, to_data
from nas.errors import UsageError
from nas.evaluators.supernet import Supernet
from nas.tasks import check_name, lasting_task
from nas.training.recipe import Lookup, Recipe
from spaces import SPACES, presets
from spaces.shufflenet import PRESETS
from strategies import GRADIENT_STRATEGIES, STRATEGIES, strategy_class
from strategies.evolution import Evolution
from strategies.random_search import RandomSearch
from strategies.regularized_evolution import RegularizedEvolution
from strategies.screening import Screening

RECIPES = Path(__file__).parents[1] / "recipes"


def refusal(call, *arguments) -> str:
    """The message of the refusal, which is one line."""
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def of_flags(*argv: str) -> Config:
    return build(parse(argv)[0])


@pytest.fixture
def file(tmp_path):
    """Writes a file and gives the flags that name it."""

    def write(content: str | dict | list) -> tuple[str, str]:
        path = tmp_path / "some.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return "--config", str(path)

    return write


# One meaning, two spellings


def test_nothing_said_is_the_default():
    found = of_flags()
    assert found.strategy == Evolution()
    assert found.space == PRESETS["tiny"]
    assert found.evaluator == Supernet()
    assert dataclasses.replace(found, strategy="evolution", space="shufflenet", evaluator="supernet") == Config()


SAME = {
    "numbers": (["--trials", "7", "--max-macs", "3e6", "--seed=5"], {"trials": 7, "max_macs": 3e6, "seed": 5}),
    "text": (["--task", "npz:a b.npz", "--name", "x"], {"task": "npz:a b.npz", "name": "x"}),
    "dashes": (["--max-images", "100", "--trial-seconds", "0.5"], {"max-images": 100, "trial-seconds": 0.5}),
    "switches": (["--unordered", "--evaluator.affine"], {"unordered": True, "evaluator": {"affine": True}}),
    "choices": (["--paths", "cost-binned", "--evaluator", "train"], {"paths": "cost-binned", "evaluator": "train"}),
    "space": (["--space", "shufflenet:small"], {"space": "shufflenet:small"}),
    "strategy": (["--strategy", "random"], {"strategy": "random"}),
    "strategy by mapping": (["--strategy", "random"], {"strategy": {"name": "random"}}),
    "strategy fields": (
        ["--strategy", "evolution", "--strategy.population-size", "40", "--strategy.mutation-probability", "0.2"],
        {"strategy": {"name": "evolution", "population_size": 40, "mutation-probability": 0.2}},
    ),
    "fields of the default strategy": (["--strategy.memory", "9"], {"strategy": {"memory": 9}}),
    "space fields": (
        ["--space", "shufflenet:small", "--space.last-width", "512", "--space.widths", "[32, 64, 128, 256]"],
        {"space": {"name": "shufflenet:small", "last_width": 512, "widths": [32, 64, 128, 256]}},
    ),
    "recipes": (
        ["--training.batch-size", "8", "--training.flip", "--final.schedule", "linear", "--final.clip", "0"],
        {"training": {"batch_size": 8, "flip": True}, "final": {"schedule": "linear", "clip": 0}},
    ),
}


@pytest.mark.parametrize(("flags", "data"), SAME.values(), ids=SAME)
def test_flags_and_file_mean_the_same(flags, data, file):
    assert of_flags(*flags) == of_flags(*file(data)) == build(data)
    assert of_flags(*flags) != of_flags()


def test_values_have_the_types_of_their_fields():
    found = of_flags("--max-macs", "3000000", "--trials", "7", "--space.blocks", "(1,1,1)", "--training.clip", "1")
    values = (found.max_macs, found.trials, found.space.blocks, found.training.clip)
    assert repr(values) == "(3000000.0, 7, (1, 1, 1), 1.0)"
    assert found.limits == (("macs", 3e6),)
    assert of_flags("--max-params", "10", "--max-macs", "5").limits == (("macs", 5.0), ("params", 10.0))


@pytest.mark.parametrize(
    ("data", "flags", "expected"),
    [
        ({"trials": 5}, ["--trials", "6"], {"trials": 6}),
        ({"max-macs": 5}, ["--max-macs", "6"], {"max_macs": 6}),
        ({"unordered": True}, ["--no-unordered"], {}),
        ({"strategy": "evolution"}, ["--strategy", "random"], {"strategy": "random"}),
        ({"strategy": {"name": "evolution", "memory": 5}}, ["--strategy", "random"], {"strategy": "random"}),
        (
            {"strategy": {"name": "evolution", "population-size": 5, "memory": 9}},
            ["--strategy.population-size", "6"],
            {"strategy": {"name": "evolution", "population_size": 6, "memory": 9}},
        ),
        (
            {"space": "shufflenet:small"},
            ["--space.last-width", "512"],
            {"space": {"name": "shufflenet:small", "last_width": 512}},
        ),
        (
            {"training": {"batch-size": 5, "steps": 7}},
            ["--training.batch-size", "6"],
            {"training": {"batch_size": 6, "steps": 7}},
        ),
    ],
)
def test_flags_win(data, flags, expected, file):
    assert of_flags(*file(data), *flags) == of_flags(*flags, *file(data)) == build(expected)


def test_the_last_of_equal_flags_wins():
    assert of_flags("--trials", "3", "--trials", "4").trials == 4


def test_resume_is_not_part_of_the_configuration():
    assert parse(["--resume", "some-run", "--workers", "3"]) == ({"workers": "3"}, "some-run")
    assert parse(["--workers", "3"])[1] is None


def test_parsing_keeps_to_what_was_said(file):
    assert parse([]) == ({}, None)
    assert parse(file({"trials": 3})) == ({"trials": 3}, None)
    assert parse(file("")) == ({}, None)
    assert parse(file("# nothing but a comment\n")) == ({}, None)


# Words are what they look like

TEXTS = [name for name, hint in typing.get_type_hints(Config).items() if hint in (str, str | None)]


@pytest.mark.parametrize("text", ["(3,0,1)", "[3, 0]", "010", "1e-3"])
@pytest.mark.parametrize("field", sorted({*TEXTS} - {"limit", "objectives", "cost", "time", "log", "ray_address"}))
def test_text_stays_text_in_a_field_of_text(field, text, file):
    flag = "--" + field.replace("_", "-")
    found = {
        getattr(of_flags(*flags), field)
        for flags in ([flag, text], [f"{flag}={text}"], file(json.dumps({field: text})))
    }
    assert found == {text} == {getattr(build({field: text}), field)}


@pytest.mark.parametrize(
    "address", ["x", "", "host:", ":1", "host:0", "host:65536", "ray://", "http://host:1", "host:1\n"]
)
def test_an_address_of_no_cluster_is_refused(address):
    said = refusal(build, {"ray_address": address})
    assert said == f"ray_address={address!r} must be auto, HOST:PORT or ray://HOST:PORT"
    for good in ("auto", "host:6379", "[::1]:65535", "ray://head.local:10001"):
        assert build({"ray_address": good}).ray_address == good


def test_text_in_brackets_is_refused_by_what_a_field_of_text_says(file):
    assert refusal(of_flags, "--limit", "[macs]") == refusal(of_flags, *file({"limit": "[macs]"}))
    assert of_flags("--objectives", "(error,macs)").objectives == "(error,macs)"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        *(("max_macs: 1e-3", 1e-3), ("max_macs: 3e6", 3e6), ("max_macs: 1E+2", 100.0), ("max_macs: .5", 0.5)),
        *(("max_macs: 5", 5.0), ("max_macs: -0.5", -0.5), ("max_macs: '2.5'", 2.5), ("max_macs: .inf", math.inf)),
        *(("seed: 10", 10), ("seed: +10", 10), ("seed: '10'", 10), ("seed: 0", 0), ("seed: 4294967295", 2**32 - 1)),
        *(("unordered: true", True), ("unordered: True", True), ("unordered: FALSE", False)),
        ("unordered: 'true'", True),
        *(("name: 010", "010"), ("name: yes", "yes"), ("name: off", "off"), ("name: 10:30", "10:30")),
        *(("name: 2020-01-01", "2020-01-01"), ("name: 1_000", "1_000"), ("name: 0x10", "0x10"), ("name: =", "=")),
        *(("name: 1.2.3", "1.2.3"), ("name: '5'", "5"), ("name: ~", None), ("name: null", None), ("name:", None)),
        *(("name: &anchor x", "x"), ("\ufeffname: x", "x"), ("name: schön", "schön")),
    ],
)
def test_a_word_in_a_file_is_what_it_looks_like(line, value, tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text(line, encoding="utf-8")
    found = getattr(of_flags("--config", str(path)), line.partition(":")[0].removeprefix("\ufeff"))
    assert (found, type(found)) == (value, type(value))


NO_WHOLE_NUMBERS = [
    "010",
    "0x10",
    "0o10",
    "0b11",
    "1_000",
    "10:30",
    "1e3",
    "5.0",
    " 5",
    "5 ",
    "yes",
    "true",
    "٣",
    "1" * 5000,
]


@pytest.mark.parametrize("text", NO_WHOLE_NUMBERS)
def test_what_is_no_plain_whole_number_is_refused_and_not_made_one(text, file):
    said = "seed={} must be a valid integer"
    assert said.format(repr(text)[:300]).split(" must")[0] in refusal(of_flags, "--seed", text)
    assert "must be a valid integer" in refusal(of_flags, *file(json.dumps({"seed": text})))
    if text == text.strip():
        assert "must be a valid integer" in refusal(of_flags, *file(f"seed: {text}"))
    assert "must be a valid integer" in refusal(build, {"seed": text})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"seed": True}, "seed=True must be a valid integer"),
        ({"seed": 5.0}, "seed=5.0 must be a valid integer"),
        ({"max_images": 5.0}, "max_images=5.0 must be a valid integer"),
        ({"max_macs": True}, "max_macs=True must be a valid number"),
        ({"max_macs": "007"}, "max_macs='007' must be a valid number"),
        ({"max_macs": "1_000"}, "max_macs='1_000' must be a valid number"),
        ({"unordered": "yes"}, "unordered='yes' must be true or false"),
        ({"unordered": "on"}, "unordered='on' must be true or false"),
        ({"unordered": 1}, "unordered=1 must be true or false"),
        ({"space": {"name": "shufflenet", "widths": [8, 16, True]}}, "space.widths[2]=True must be a valid integer"),
        ({"space": {"name": "shufflenet", "widths": "[8, 016]"}}, "space.widths[1]='016' must be a valid integer"),
        ({"space": {"name": "shufflenet", "widths": "[8, 16)"}}, "space.widths='[8, 16)' must be a valid tuple"),
    ],
)
def test_a_value_of_another_type_is_not_converted(data, said, file):
    assert refusal(build, data).startswith(said)
    assert refusal(of_flags, *file(data)).startswith(said)


def test_numbers_of_numpy_are_numbers():
    given = {"seed": np.int64(3), "max_macs": np.float32(0.5), "unordered": np.bool_(True), "max_params": np.int32(7)}
    found = build({**given, "space": {"blocks": np.array([1, 2, 3])}})
    assert repr((found.seed, found.max_macs, found.unordered, found.max_params)) == "(3, 0.5, True, 7.0)"
    assert repr(found.space.blocks) == "(1, 2, 3)"


def test_seeds_are_those_of_32_bits(file):
    assert of_flags("--seed", "4294967295").seed == 2**32 - 1
    for seed in (-1, 2**32, 2**64, 10**50):
        said = f"seed={seed} must lie in 0..4294967295"
        assert said == refusal(of_flags, "--seed", str(seed)) == refusal(of_flags, *file(f"seed: {seed}"))
        assert said == refusal(build, {"seed": seed})


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        ("gates", 2**32 - 1),
        ("nao", 2**32 - 1),
        ("seminas", 2**32 - 1),
        ("mlp-ensemble", 2**32 - 1),
        ("boosted-trees", 2**31 - 1),
    ],
)
def test_seeds_of_predictors_are_those_that_do_not_repeat_another(kind, most):
    assert config.build_predictor({"name": kind, "seed": most}).seed == most
    for seed in (-1, most + 1):
        said = f"predictor.seed={seed} must lie in 0..{most}"
        assert refusal(config.build_predictor, {"name": kind, "seed": str(seed)}) == said


# Architectures


@pytest.mark.parametrize("name", SPACES)
def test_an_architecture_is_given_as_it_is_shown_or_as_its_choices(name, file):
    space = next(iter(presets(name).values()))
    row = np.random.default_rng(0).integers(0, space.cardinalities).astype(np.int32)
    text, flags = space.describe(row), ("--space", name)
    spellings = {
        "a flag": of_flags(*flags, "--architecture", text),
        "a flag in one word": of_flags(f"--architecture={text}", *flags),
        "text in a file": of_flags(*file({"architecture": text, "space": name})),
        "a list in a file": of_flags(*file({"architecture": row.tolist(), "space": name})),
        "text": build({"space": name, "architecture": text}),
        "a list": build({"space": name, "architecture": row.tolist()}),
        "a tuple": build({"space": name, "architecture": tuple(row)}),
        "an array": build({"space": name, "architecture": row.astype(np.int64)}),
    }
    for spelling, found in spellings.items():
        assert found.architecture == text, spelling
        np.testing.assert_array_equal(found.space.parse(found.architecture), row)
        assert build(json.loads(json.dumps(to_data(found, {"space": name})))) == found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([3, 0], "architecture=[3, 0] must be a text, or a list of 9 choices"),
        ([], "architecture=[] must be a text, or a list of 9 choices"),
        (5, "architecture=5 must be a text, or a list of 9 choices"),
        ({"normal": "add"}, "architecture={'normal': 'add'} must be a text, or a list of 9 choices"),
        ([[3, 0]] * 9, "architecture[0]=[3, 0] must be an integer in 0..3"),
        ([0] * 8 + [4], "architecture[8]=4 must be an integer in 0..3"),
        ([-1] + [0] * 8, "architecture[0]=-1 must be an integer in 0..3"),
        ([0.5] * 9, "architecture[0]=0.5 must be an integer in 0..3"),
        ([True] * 9, "architecture[0]=True must be an integer in 0..3"),
        (["01"] + [0] * 8, "architecture[0]='01' must be an integer in 0..3"),
    ],
)
def test_choices_that_are_no_architecture_are_refused(given, said, file):
    assert refusal(build, {"architecture": given}) == said
    assert refusal(build, {"architecture": np.array(given)}) == said
    assert refusal(of_flags, *file(json.dumps({"architecture": given}))) == said


# Presets, kinds, fields


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_of_a_space_have_names(preset):
    assert of_flags("--space", f"shufflenet:{preset}").space == PRESETS[preset]


@pytest.mark.parametrize("name", SPACES)
def test_a_space_without_a_preset_is_the_first(name):
    assert of_flags("--space", name).space == next(iter(presets(name).values()))


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_chosen_by_its_name(name):
    named = strategy_class(name)()
    if hasattr(named, "num_objectives"):
        named = dataclasses.replace(named, num_objectives=1)  # which is how many a run has if nothing else is said
    assert of_flags("--strategy", name).strategy == named
    if name in of_one_budget():
        assert of_flags("--strategy", name, "--strategy.budget", "3").strategy.budget == 3
    else:
        assert of_flags("--strategy", name, "--strategy.budgets", "(1,4)").strategy.budgets == (1, 4)


# Mistakes

WRONG_FLAGS = {
    "strategy": (["--strategy", "evolutoin"], ["strategy='evolutoin' is not one of", "did you mean 'evolution'?"]),
    "space": (["--space", "shuflenet"], ["space='shuflenet' is not one of", "did you mean 'shufflenet'?"]),
    "preset": (["--space", "shufflenet:smal"], ["'shufflenet:smal'", "did you mean 'shufflenet:small'?"]),
    "flag": (["--trails", "5"], ["'--trails'", "did you mean '--trials'?"]),
    "flag with a value": (["--trails=5"], ["'--trails'", "did you mean '--trials'?"]),
    "shortened flag": (["--trial", "5"], ["'--trial'", "did you mean '--trials'?"]),
    "field of another strategy": (["--strategy", "random", "--strategy.hidden", "5"], ["'--strategy.hidden'"]),
    "field of a strategy": (["--strategy.memroy", "5"], ["did you mean '--strategy.memory'?"]),
    "field of a recipe": (["--training.step", "5"], ["did you mean '--training.steps'?"]),
    "word": (["evolution"], ["flag='evolution'"]),
    "no value": (["--trials"], ["--trials", "expected one argument"]),
    "no file": (["--config"], ["--config", "expected one argument"]),
    "part": (["--trials", "1.5"], ["trials='1.5' must be a valid integer"]),
    "word for a number": (["--max-macs", "many"], ["max_macs='many' must be a valid number"]),
    "list for a number": (["--trials", "[1]"], ["trials='[1]' must be a valid integer"]),
    "number for a list": (["--space.widths", "5"], ["space.widths='5' must be a valid tuple"]),
    "way to resize": (["--resize", "fill"], ["resize='fill' must be 'crop', 'pad' or 'stretch'"]),
    "choice": (
        ["--evaluator", "supernets"],
        ["evaluator='supernets' is not one of predicted, supernet, train, zero-cost; did you mean"],
    ),
    "choice of a recipe": (["--final.schedule", "cos"], ["final.schedule='cos' must be 'cosine', 'linear' or"]),
    "below": (["--trials", "0"], ["trials=0 must be at least 1"]),
    "beyond memory": (["--concurrency", "1000000000000"], ["concurrency=1000000000000 must be at most 100000"]),
    "steps beyond memory": (["--training.steps", "1000000000000"], ["training.steps=1000000000000 must lie in 1..100"]),
    "negative": (["--seed", "-1"], ["seed=-1 must lie in 0..4294967295"]),
    "nan": (["--trial-seconds", "nan"], ["trial_seconds=nan must be at least 0"]),
    "rule of a strategy": (
        ["--strategy", "regularized-evolution", "--strategy.population-size", "0"],
        ["strategy.population_size=0 must be at least 1"],
    ),
    "rule of a recipe": (["--training.momentum", "1"], ["training.momentum=1.0 must lie in [0, 1)"]),
    "optimiser": (["--final.optimiser", "adam"], ["final.optimiser='adam' must be 'sgd', 'adamw' or 'rmsprop'"]),
    "fields of optimisers": (
        ["--training.optimiser", "adamw", "--training.nesterov"],
        ["training.nesterov=True needs optimiser='sgd', not 'adamw'"],
    ),
    "rule of a space": (["--space.widths", "[8]"], ["space.blocks=(3, 3, 3), widths=(8,)", "equally long"]),
    "what the task decides": (["--space.image-size", "8"], ["'--space.image-size'", "'--image-size'"]),
    "budget": (["--strategy.budget", "-1"], ["strategy.budget=-1 must be at least 0"]),
}


@pytest.mark.parametrize(("flags", "said"), WRONG_FLAGS.values(), ids=WRONG_FLAGS)
def test_a_wrong_flag_is_refused_with_the_field_and_what_is_allowed(flags, said):
    message = refusal(of_flags, *flags)
    for part in said:
        assert part in message


WRONG_FILES = {
    "field": ({"trails": 5}, ["field trails", "did you mean 'trials'?"]),
    "field that is a number": ("1: 2", ["field 1"]),
    "field of a recipe": ({"training": {"step": 5}}, ["field training.step", "did you mean 'steps'?"]),
    "field of a strategy": ({"strategy": {"name": "evolution", "memroy": 5}}, ["field strategy.memroy", "'memory'"]),
    "field of a space": ({"space": {"name": "shufflenet", "width": [4]}}, ["field space.width", "'widths'"]),
    "strategy": ({"strategy": "evolutoin"}, ["did you mean 'evolution'?"]),
    "strategy by mapping": ({"strategy": {"name": "rndom"}}, ["did you mean 'random'?"]),
    "strategy that is a number": ({"strategy": 5}, ["strategy=5 must be a name, or a mapping"]),
    "strategy that is empty": ("strategy:", ["strategy=None must be a name, or a mapping"]),
    "strategy without a name": ({"strategy": {"name": None}}, ["must be a name, or a mapping"]),
    "space that is a list": ({"space": ["shufflenet"]}, ["space=['shufflenet'] must be a name, or a mapping"]),
    "recipe that is a number": ({"training": 5}, ["training=5 must be a mapping of fields"]),
    "recipe that is empty": ("training:", ["training=None must be a mapping of fields"]),
    "text for a number": ({"trials": "many"}, ["trials='many' must be a valid integer"]),
    "nothing for a number": ("trials:", ["trials=None must be a valid integer"]),
    "number for a text": ({"task": 5}, ["task=5 must be a valid string"]),
    "what the task decides": (
        {"space": {"name": "shufflenet", "image_size": 8}},
        ["space.image_size cannot be set", "--image-size"],
    ),
    "and with dashes": ({"space": {"name": "shufflenet", "num-classes": 8}}, ["space.num-classes cannot be set"]),
    "a list": ("- trials\n- 5\n", ["must be a mapping of fields, not list"]),
    "a word": ("trials", ["must be a mapping of fields, not str"]),
    "not yaml": ("trials: [", ["is not YAML"]),
    "a tab": ("training:\n\tsteps: 5", ["is not YAML"]),
    "a key twice": ("seed: 1\ntrials: 2\nseed: 3\n", ["line 3: the key 'seed' is there twice"]),
    "a key in two spellings": ("max-macs: 1\nmax_macs: 2\n", ["line 2: the key 'max_macs' is there twice"]),
    "a key of a part twice": ("final: {steps: 1, flip: true, steps: 2}", ["line 1: the key 'steps' is there twice"]),
    "an alias": ("name: &a x\ntask: *a\n", ["line 2: the alias *a is not taken"]),
    "an alias of itself": ("space: &a [*a]", ["line 1: the alias *a is not taken"]),
    "laughs": (
        "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in itertools.pairwise("abcdefghij")),
        ["line 2: the alias *a is not taken"],
    ),
    "a merge": ("final: {<<: {steps: 1}}", ["line 1: the merge key << is not taken"]),
    "a tag": ("seed: !!int 010", ["line 1: the tag tag:yaml.org,2002:int is not taken"]),
    "a key that is a list": ("? [a, b]\n: 1\n", ["line 1: a key must be a word"]),
    "lists in lists": ("name: " + "[" * 100_000, ["line 1: there are more than 20 levels"]),
    "mappings in mappings": ("{a: " * 5_000 + "}" * 5_000, ["line 1: there are more than 20 levels"]),
    "lists by lines": ("- " * 50_000, ["line 1: there are more than 20 levels"]),
    "two documents": ("seed: 1\n---\nseed: 2\n", ["is not YAML", "single document"]),
    "too long": ("name: x\n" + "#" * 2**18, ["is longer than 262144 bytes"]),
    "an object": ("name: !!python/object/apply:os.getcwd []", ["line 1: the tag", "os.getcwd is not taken"]),
}


@pytest.mark.parametrize(("content", "said"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_wrong_file_is_refused_with_the_field_and_what_is_allowed(content, said, file):
    message = refusal(of_flags, *file(content))
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    ("content", "flags", "said"),
    [
        ("training: 5", ["--training.steps", "3"], "training=5 must be a mapping"),
        ("training:", ["--training.steps", "3"], "training=None must be"),
        ("", ["--space.widths", "[8,:"], "space.widths"),
    ],
)
def test_a_flag_that_does_not_fit_is_refused_in_one_line(content, flags, said, file):
    assert said in refusal(of_flags, *file(content), *flags)


def test_a_file_that_cannot_be_read_is_refused(tmp_path, file):
    assert "No such file" in refusal(of_flags, "--config", str(tmp_path / "none.yaml"))
    assert "it is not a file" in refusal(of_flags, "--config", str(tmp_path))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "is not YAML" in refusal(of_flags, "--config", str(binary))
    assert "it is not a file" in refusal(of_flags, "--config", "/dev/zero")
    assert "No such file" in refusal(of_flags, "--config", "")


@pytest.mark.parametrize(
    ("name", "said"),
    [("digit", "'digits'"), ("fashion_mnist", "'fashion-mnist'"), ("npz", "'npz:FILE'"), ("digits:x", "'digits'")],
)
def test_an_unknown_task_is_refused_with_the_nearest(name, said):
    message = refusal(check_name, name)
    assert f"task={name!r} is not one of" in message
    assert f"did you mean {said}?" in message


# There and back


@pytest.mark.parametrize(("flags", "data"), SAME.values(), ids=SAME)
def test_stored_data_build_the_same_configuration(flags, data):
    for given in (data, parse(flags)[0]):
        built = build(given)
        stored = to_data(built, given)
        lasting = dataclasses.replace(built, task=lasting_task(built.task))  # data are found from any folder
        assert build(stored) == build(json.loads(json.dumps(stored))) == lasting  # as the store keeps them
        assert to_data(build(stored), stored) == stored


FILES = {
    "task": ("npz:a.npz", "folder:photos", "voc:photos", "table:t.npz", "coco:a.json,photos", "load.py:load"),
    "pretrain": ("folder:photos", "npz:a.npz"),
    "cost": ("mine.py:cost",),
    "prescreen": ("mine.py:Mine",),
    "latency": ("my.json",),
    "data_dir": ("photos",),
}


@pytest.mark.parametrize(("field", "name"), [(field, name) for field, names in FILES.items() for name in names])
def test_a_stored_job_names_its_files_so_that_they_are_found_from_any_folder(field, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def cost(space, encodings):\n    return {}\n")
    given = {field: name}
    stored = to_data(build(given), given)
    kind, colon, place = ("", "", name) if ".py:" in name else name.rpartition(":")
    assert stored[field] == f"{kind}{colon}" + ",".join(f"{tmp_path}/{each}" for each in place.split(","))
    if field in ("cost", "prescreen", "latency"):
        monkeypatch.chdir("/")
        assert same_part(field, stored[field], stored)
        assert not same_part(field, f"/elsewhere/{name}", stored)


@pytest.mark.parametrize(
    ("field", "given", "stored", "is_moved"),
    [
        ("task", "npz:b/a.npz", "npz:/a/a.npz", True),
        ("task", "coco:b.json,c", "coco:/a.json,/b", True),
        ("task", "table:b.npz", "table:/a.npz", True),
        ("task", "folder:b", "npz:/a.npz", False),
        ("task", "digits", "npz:/a.npz", False),
        ("task", "digits", "digits", False),
        ("task", "scenes:large", "scenes:small", False),
        ("task", 3, "npz:/a.npz", False),
        ("pretrain", "folder:b", "folder:/a", True),
        ("pretrain", "folder:b", None, False),
        ("latency", "b.json", "/a.json", True),
        ("latency", "b.json", None, False),
        ("trials", 3, 4, False),
    ],
)
def test_a_job_that_goes_on_may_find_the_same_data_in_another_place(field, given, stored, is_moved):
    assert moved(field, given, {} if stored is None else {field: stored}) == is_moved


def test_stored_data_name_every_field():
    stored = to_data(build({}), {})
    assert stored.keys() == {field.name for field in dataclasses.fields(Config)}
    assert stored["training"].keys() == {field.name for field in dataclasses.fields(Recipe)}
    assert stored["strategy"] == {"name": "evolution", **dataclasses.asdict(Evolution())}
    assert not set(config.values.BOUND) & stored["space"].keys()


def test_names_are_those_of_the_kinds():
    given = {"space": "shufflenet:small", "strategy": {"name": "random"}, "task": "cifar10"}
    assert config.names(given) == {"space": "shufflenet", "strategy": "random", "task": "cifar10"}
    assert config.names({}) == {"space": "shufflenet", "strategy": "evolution", "task": "digits"}


def test_what_a_resumed_run_may_change_are_fields():
    assert set(config.RESUMABLE) <= {field.name for field in dataclasses.fields(Config)}


# Help

ASK = """
import sys
from nas.commands.search import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert stop.code in (0, None)
heavy = {"jax", "flax", "optax", "ray", "sqlalchemy", "numpy", "sklearn"} & set(sys.modules)
assert not heavy or "--strategy" in sys.argv, heavy
"""


def helped(*argv: str, how: str = "--help") -> str:
    done = subprocess.run([sys.executable, "-c", ASK, *argv, how], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_help_lists_every_field_and_does_not_import_jax():
    text, short = helped(how="--help-all"), helped()
    flags = {"--config", "--resume"}
    nested = {"table": Lookup, "screening": Screening, "training": Recipe, "pretraining": Recipe, "final": Recipe}
    plain = [field.name for field in dataclasses.fields(Config) if field.name not in nested]
    owned = [f"{part}.{field.name}" for part, kind in nested.items() for field in dataclasses.fields(kind)]
    flags |= {"--" + name.replace("_", "-") for name in plain}
    assert flags <= set(short.replace(",", " ").split())
    assert "--training." not in short.replace("--training.FIELD", "")
    assert len(short.splitlines()) < len(text.splitlines()) / 2
    flags |= {"--" + name.replace("_", "-") for name in owned}
    assert flags <= set(text.replace(",", " ").split())
    assert "[200]" in text  # the default of --trials


def test_every_field_is_under_one_heading():
    under = [name for names in config.values.GROUPS.values() for name in names]
    assert sorted(under) == sorted({field.name for field in dataclasses.fields(Config)} - {*config.values.NESTED})


def test_help_names_every_space_and_strategy():
    _parser = config.flags._parser
    texts = {
        action.dest: str(action.help) for action in _parser("nas search", {}, Config.strategy, full=False)._actions
    }
    for field, names in (("space", SPACES), ("strategy", (*STRATEGIES, *GRADIENT_STRATEGIES))):
        words = set(re.findall(r"[\w-]+", texts[field]))
        assert set(names) <= words
    assert texts["resize"].endswith("One of crop, pad, stretch. [crop]")


def test_help_of_a_strategy_lists_its_own_fields():
    text = helped("--strategy", "evolution")
    for field in dataclasses.fields(Evolution):
        assert f"--strategy.{field.name}".replace("_", "-") in text


WITH_FLAGS = [Config(), Recipe(), Evolution(), RandomSearch(), RegularizedEvolution(), PRESETS["tiny"]]


@pytest.mark.parametrize("value", WITH_FLAGS, ids=lambda value: type(value).__name__)
def test_every_field_has_a_help_text(value):
    parser = argparse.ArgumentParser()
    skipped = config.values.NESTED if isinstance(value, Config) else config.values.BOUND
    config.flags._add_fields(
        parser, value, "", [each.name for each in dataclasses.fields(value) if each.name not in skipped]
    )
    texts = {action.dest: action.help for action in parser._actions if action.dest != "help"}
    assert texts.keys() == {field.name for field in dataclasses.fields(value)} - {*skipped}
    assert all(text.partition(" [")[0] for text in texts.values())


# Recipes


def test_every_recipe_is_a_configuration_and_says_its_command_time_and_result():
    for path in sorted(RECIPES.glob("*.yaml")):
        text = path.read_text()
        assert isinstance(of_flags("--config", str(path)), Config)
        assert f"# python run_search.py --config recipes/{path.name}" in text
        said = " ".join(line for line in text.splitlines() if line.startswith("#"))
        assert "minute" in said or "hour" in said or "second" in said, path.name
        assert "Expected" in said, path.name
