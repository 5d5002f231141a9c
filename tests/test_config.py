"""The configuration: a file and flags that say the same are the same, and every mistake is one line with the field."""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nas import config
from nas.config import Config, build, parse, to_data
from nas.errors import UsageError
from nas.recipe import Lookup, Recipe, Screening, ZeroCost
from nas.tasks import check_name
from spaces import SPACES, presets
from spaces.shufflenet import PRESETS
from strategies import STRATEGIES, strategy_class
from strategies.evolution import Evolution
from strategies.random_search import RandomSearch
from strategies.regularized_evolution import RegularizedEvolution

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
    assert dataclasses.replace(found, strategy="evolution", space="shufflenet") == Config()


SAME = {
    "numbers": (["--trials", "7", "--max-macs", "3e6", "--seed=5"], {"trials": 7, "max_macs": 3e6, "seed": 5}),
    "text": (["--task", "npz:a b.npz", "--name", "x"], {"task": "npz:a b.npz", "name": "x"}),
    "dashes": (["--max-images", "100", "--trial-seconds", "0.5"], {"max-images": 100, "trial-seconds": 0.5}),
    "switches": (["--affine", "--unordered"], {"affine": True, "unordered": True}),
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
    assert of_flags("--strategy", name, "--strategy.budget", "3").strategy.budget == 3


# Mistakes

WRONG_FLAGS = {
    "strategy": (["--strategy", "evolutoin"], ["strategy='evolutoin' is not one of", "did you mean 'evolution'?"]),
    "space": (["--space", "shuflenet"], ["space='shuflenet' is not one of", "did you mean 'shufflenet'?"]),
    "preset": (["--space", "shufflenet:smal"], ["'shufflenet:smal'", "did you mean 'shufflenet:small'?"]),
    "flag": (["--trails", "5"], ["'--trails'", "did you mean '--trials'?"]),
    "flag with a value": (["--trails=5"], ["'--trails'", "did you mean '--trials'?"]),
    "shortened flag": (["--trial", "5"], ["'--trial'", "did you mean '--trials'?"]),
    "field of another strategy": (["--strategy", "random", "--strategy.memory", "5"], ["'--strategy.memory'"]),
    "field of a strategy": (["--strategy.memroy", "5"], ["did you mean '--strategy.memory'?"]),
    "field of a recipe": (["--training.step", "5"], ["did you mean '--training.steps'?"]),
    "word": (["evolution"], ["flag='evolution'"]),
    "no value": (["--trials"], ["--trials", "expected one argument"]),
    "no file": (["--config"], ["--config", "expected one argument"]),
    "part": (["--trials", "1.5"], ["trials='1.5' must be a valid integer"]),
    "word for a number": (["--max-macs", "many"], ["max_macs='many' must be a valid number"]),
    "list for a number": (["--trials", "[1]"], ["trials=[1] must be a valid integer"]),
    "number for a list": (["--space.widths", "5"], ["space.widths='5' must be a valid tuple"]),
    "way to resize": (["--resize", "fill"], ["resize='fill' must be 'crop', 'pad' or 'stretch'"]),
    "choice": (["--evaluator", "supernets"], ["evaluator='supernets' must be 'supernet', 'train' or 'zero-cost'"]),
    "choice of a recipe": (["--final.schedule", "cos"], ["final.schedule='cos' must be 'cosine', 'linear' or"]),
    "below": (["--trials", "0"], ["trials=0 must be at least 1"]),
    "negative": (["--seed", "-1"], ["seed=-1 must be at least 0"]),
    "nan": (["--trial-seconds", "nan"], ["trial_seconds=nan must be at least 0"]),
    "rule of a strategy": (
        ["--strategy", "regularized-evolution", "--strategy.population-size", "2"],
        ["strategy.tournament_size=3 must lie in 1..population_size=2"],
    ),
    "rule of a recipe": (["--training.momentum", "1"], ["training.momentum=1.0 must lie in [0, 1)"]),
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
    "an object": ("name: !!python/object/apply:os.getcwd []", ["is not YAML"]),
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
    assert "Is a directory" in refusal(of_flags, "--config", str(tmp_path))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "is not YAML" in refusal(of_flags, "--config", str(binary))


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
        assert build(stored) == built
        assert build(json.loads(json.dumps(stored))) == built  # as the store keeps them
        assert to_data(build(stored), stored) == stored


def test_stored_data_name_every_field():
    stored = to_data(build({}), {})
    assert stored.keys() == {field.name for field in dataclasses.fields(Config)}
    assert stored["training"].keys() == {field.name for field in dataclasses.fields(Recipe)}
    assert stored["strategy"] == {"name": "evolution", **dataclasses.asdict(Evolution())}
    assert not set(config.BOUND) & stored["space"].keys()


def test_names_are_those_of_the_kinds():
    given = {"space": "shufflenet:small", "strategy": {"name": "random"}, "task": "cifar10"}
    assert config.names(given) == {"space": "shufflenet", "strategy": "random", "task": "cifar10"}
    assert config.names({}) == {"space": "shufflenet", "strategy": "evolution", "task": "digits"}


def test_what_a_resumed_run_may_change_are_fields():
    assert set(config.RESUMABLE) <= {field.name for field in dataclasses.fields(Config)}


# Help

ASK = """
import sys
from nas.launch import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert stop.code in (0, None)
heavy = {"jax", "flax", "optax", "ray", "sqlalchemy", "numpy", "sklearn"} & set(sys.modules)
assert not heavy or "--strategy" in sys.argv, heavy
"""


def helped(*argv: str) -> str:
    done = subprocess.run([sys.executable, "-c", ASK, *argv, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_help_lists_every_field_and_does_not_import_jax():
    text = helped()
    flags = {"--config", "--resume"}
    nested = {"table": Lookup, "zero_cost": ZeroCost, "screening": Screening, "training": Recipe, "final": Recipe}
    plain = [field.name for field in dataclasses.fields(Config) if field.name not in nested]
    owned = [f"{part}.{field.name}" for part, kind in nested.items() for field in dataclasses.fields(kind)]
    flags |= {"--" + name.replace("_", "-") for name in plain + owned}
    assert flags <= set(text.replace(",", " ").split())
    assert "[200]" in text  # the default of --trials


def test_help_of_a_strategy_lists_its_own_fields():
    text = helped("--strategy", "evolution")
    for field in dataclasses.fields(Evolution):
        assert f"--strategy.{field.name}".replace("_", "-") in text


@pytest.mark.parametrize("kind", [Config, Recipe, Evolution, RandomSearch, RegularizedEvolution])
def test_every_field_has_a_help_text(kind):
    parser = argparse.ArgumentParser()
    skipped = config.NESTED if kind is Config else ()
    config._add_fields(parser, kind(), "", skip=skipped)
    texts = {action.dest: action.help for action in parser._actions if action.dest != "help"}
    assert texts.keys() == {field.name for field in dataclasses.fields(kind)} - {*skipped}
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
