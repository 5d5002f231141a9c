"""Strictness for every test: shapes checked at run time, no silent rank promotion, one key. And how tests are run:
programs compiled quickly and kept for all processes of the session, the longest files first, slow tests in parts."""

import contextlib
import dataclasses
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A shell starts what runs in the background deaf to Ctrl-C, and so would be the command lines that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# In nearly all tests compiling takes longer than running. Command lines and Ray's workers inherit this.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# What one process of the session has compiled, the others read. No other session does: each begins cold.
MADE = None
if "PYTEST_XDIST_WORKER" not in os.environ:
    MADE = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="nas-tests-")
    # XLA's older way to write loops compiles in two thirds of the time. A version that does not know the flag ends at
    # once, so another process tries it.
    quicker = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()}
    tried = [sys.executable, "-c", "import jax; jax.devices()"]
    if subprocess.run(tried, env={**os.environ, **quicker}, capture_output=True).returncode == 0:
        os.environ.update(quicker)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jaxtyping  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# As everywhere in Python, an integer will do where a float is asked for.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook(["spaces", "strategies", "predictors", "nas"], CHECKER)

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from nas.errors import UsageError  # noqa: E402
from nas.tasks.base import Task, split  # noqa: E402
from nas.training import net  # noqa: E402
from nas.training.recipe import Recipe  # noqa: E402
from spaces.shufflenet import ShuffleNet  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# Data that are not the project's own, beside it.
SHARED = Path(os.environ.get("NAS_SHARED", Path(__file__).parents[2] / "shared"))
LONGEST = ("strategies", "job", "study", "spaces", "bilevel", "predictors", "darts", "sequence")


# Cases of laws that take long, mostly to compile, and whole jobs, of most of which there is a quicker case: these are
# slow. By file, what is found in the names of tests.
COSTLY = {
    "anytime": r"leaves_the_network|exported_detector|left_at_an_exit_gives|costs_what_one_of_so_many|keeps_the_laws",
    "binary": r"keeps_its_laws|laws\[|pruned_network\[|real_weights_first|one_for_all_that_differ",
    "binary_width": r"its_space_says\[vgg|keeps_a_limit|off_the_path_keeps|first_channels",
    "bilevel": r"one_hot_mixtures|killed_ends|derived_architectures.*darts|edge_is_the_path|interrupted_job"
    r"|keep_the_limits.*binary|legal_architectures.*binary|weights_warm_up|gradient_through_a_step",
    "darts": r"logits_of_the_pruned_network|loop_are_the_cells|one_program_serves|off_the_path",
    "chosen": r"damaged_checkpoint_of_a_final",
    "dense": r"is_the_librarys",
    "detect": r"answers_of_each",
    "detector": r"share_their_programs|from_the_data_to_the_test",
    "detnas": r"killed|backbone_of_a_product|that_it_is_not_for",
    "evaluators": r"finds_what_it_expects|began_with_and_no_other",
    "export": r"says_that_it_resizes",
    "faults": r"law_is_found\[(evaluates|forgets|leaves|is not)|UPDATE measurement"
    r"|was_altered.*(DELETE|seconds|order|encoding)"
    r"|that_keeps_the_law|no_command_may_have|from_its_seed|status_of_the_command",
    "halving": r"short_trainings_apart|from_where_it_stopped|on_every_rung",
    "heads": r"multiply_adds_of_its|trained_and_measured|nasnet|\[darts|mixtures_cost|ended_by_the_head.*shufflenet",
    "import_tables": r"outside_of_0_to_1|more_memory_than",
    "inference": r"counted_once|20_candidates",
    "interrupts": r"between_storing|cannot_be_written",
    "job": r"ctrl_c|commands_it_names|have_the_keys|only_where_it_was|exported_network|images_of_ones_own|running_run",
    "laws_of_strategies": r"our_gradient_strategies(?!.*\[(darts|gumbel))",
    "large": r"with_the_bits_of",
    "loop": r"other_workers\[(first delayed|last first)|evaluated_again.*\[3|go_on_from_any_beginning.*(lag|evolution)",
    "league": r"are_crossovers",
    "matrix": r"would_run|pairs_too|the_list_says\[(binary|darts|nas-fpn)",
    "nasnet": r"has_a_gradient",
    "nas_fpn": r"number_of_cells.*\[5|path_is_the|one_hot|proposes_pyramids|any_number_of_cells.*\[(9|6)"
    r"|laws_of_spaces.*(small|paper)"
    r"|by_the_programs|policy_of_ppo|trained_through|equal_maps|is_a_new_level|backbone_has_the_parameters",
    "nasbench201": r"training_along_a_path|cell_of_nothing|every_operation_but_none|pruned_network\[\(3",
    "optimiser": r"off_its_path.*(averaged|adamw|rmsprop)|those_of_optax\[adamw\]",
    "outside": r"follows_from_what_was_told|learns_from_what_it_is_told\[nsga2",
    "own_faults": r"that_fails_is_said|not_gone_on_with.*(evaluator|cost)",
    "own_tables": r"\[(bayesian|nao|seminas|ppo)|look_only.*\[(nsga2|local|evolution|regular|reinforce)|compared",
    "packed": r"packed_and_unpacked|are_those_of_bits|filters_of_nothing",
    "packed_files": r"has_the_answers|without_a_layer|has_a_bit_a_weight",
    "predictor_files": r"mistakes_are|taken_meanwhile|is_saved_shown_measured|is_loaded|did_not_note"
    r"|in_either_spelling",
    "predictors": r"best_counts_most|\[(auto|gates|mlp-ensemble|nao|seminas)",
    "product": r"networks_keep|each_part_reads|searches_exports|keeps_the_laws",
    "ray_pool": r"priority_of|retry\[(late|out)|lasting|cannot_start|waited_for_aloud|sigterm|was_there_before"
    r"|slow_job_holds|sent_to_others\[False|retry\[killed",
    "region": r"lowest_are_filled_up|whatever_way.*large|walk_is_uniform|few_changes|last_are_remembered"
    r"|picked_twice.*limits",
    "registry": r"run_again\[a|values_from_python|own_screens|by_another_process|strategy_in_a_file|cost_in_a_file"
    r"|evaluator_in_a_file|task_in_files|of_the_same_name",
    "regression": r"scored_untrained|searched_shown",
    "retrain": r"cannot_have.*words5|store_knows.*None",
    "sequence": r"trained_pool",
    "single_path": r"logits_of_the_pruned_network\[\((1|2|3)|outside_jit|gradient_of_the_pruned",
    "spaces": r"multiply_adds_of_its_cost.*binary",
    "shared": r"path_through",
    "strategies": r"\[.*(bohb|hyperband|Bayesian|NAO|PPO|Prescreened|bayesian|nao|ppo|seminas)|known_optimum",
    "streams": r"run_uses_no|predictor_uses_no",
    "study": r"queried_like_any|beats_random(?!.*chain-l)|the_loop.*\[(?!random|local)|batch_believes"
    r"|many_seeds|bayesian|beside_those",
    "testing": r"our_spaces(?!.*shufflenet)|our_strategies(?!.*random)|the_examples",
    "train": r"share_a_program.*adamw|is_training_alone",
    "zero_cost": r"follow_from_the_seed|blind|goes_by_the_first|pruned_network.*shufflenet|counted_by_hand"
    r"|off_the_path.*shufflenet",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow-part", metavar="K/N", help="of the slow tests, run the K-th of N parts alone")


@pytest.hookimpl(tryfirst=True)  # before those that are not asked for are left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Two processes end together where the longest files begin first. A slow test is in the same part for ever."""
    for item in items:
        pattern = COSTLY.get(item.path.stem.removeprefix("test_"))
        if pattern and re.search(pattern, item.name):
            item.add_marker(pytest.mark.slow)
    order = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    if not (asked := config.getoption("--slow-part")):
        return
    part, _, parts = asked.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise pytest.UsageError(f"--slow-part {asked} must be K/N with K in 1..N")

    def left_out(item: pytest.Item) -> bool:
        return bool(item.get_closest_marker("slow")) and zlib.crc32(item.nodeid.encode()) % int(parts) != int(part) - 1

    config.hook.pytest_deselected(items=[item for item in items if left_out(item)])
    items[:] = [item for item in items if not left_out(item)]


def pytest_unconfigure() -> None:
    if MADE:
        shutil.rmtree(MADE, ignore_errors=True)


def refusal(call, *arguments, **options) -> str:
    """The message of the refusal, which is one line."""
    with pytest.raises(UsageError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert message
    assert len(message.splitlines()) == 1
    return message


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(scope="module", autouse=True)
def programs_of_one_module():
    """Compiled programs are dropped with their module: each maps memory, which Linux lets a process do 65,530 times."""
    yield
    jax.clear_caches()


@pytest.fixture
def optimised():
    """Programs compiled as users have them: for what runs longer than it compiles, and claims about their bits."""
    quick = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", quick)


@contextlib.contextmanager
def compilations():
    """The programs that XLA compiles meanwhile, one entry each, as `jax.monitoring` reports them."""
    found: list[float] = []

    def listen(event: str, seconds: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


# A space with every kind of block, two of them equal, whose programs compile in seconds.
MINI = ShuffleNet(
    blocks=(1, 3),
    widths=(8, 16),
    strides=(1, 2),
    stem_width=8,
    stem_stride=2,
    last_width=16,
    image_size=8,
    image_channels=1,
    num_classes=3,
)


@dataclasses.dataclass(frozen=True)
class Toy:
    """A space of no networks: uneven decisions, one that may be inactive, and costs that pull against each other.

    Decision 1 matters only where decision 0 is not 0.
    """

    cardinalities: tuple[int, ...] = (2, 3, 1, 4, 4, 4)

    def identity(self) -> dict:
        return {"cardinalities": self.cardinalities}

    def canonical(self, encodings):
        inactive = (encodings[:, 0] == 0)[:, None] & (jnp.arange(len(self.cardinalities)) == 1)[None]
        return jnp.where(inactive, 0, encodings)

    def describe(self, encoding) -> str:
        return "-".join(str(int(choice)) for choice in encoding)

    def parse(self, text):
        row = [int(word) for word in text.split("-")]
        if len(row) != len(self.cardinalities) or any(
            not 0 <= choice < size for choice, size in zip(row, self.cardinalities, strict=True)
        ):
            raise ValueError(f"{text!r} is not a row of {self.cardinalities}")
        return np.array(row, np.int32)

    def cost(self, encodings):
        up = self.canonical(encodings).sum(1).astype(jnp.float32)
        return {"macs": 10 + up, "params": 10 + sum(self.cardinalities) - up}

    def supernet(self, key, *, affine=False):
        raise NotImplementedError

    def build(self, encoding, key):
        raise NotImplementedError


def small_strategy(name: str):
    """A strategy with its defaults; of those that train networks, with ones that train in no time."""
    from predictors import predictor_class
    from strategies import strategy_class

    networks = {"nao": {}, "seminas": {"unlabelled": 60}}
    if name not in networks:
        return strategy_class(name)()
    predictor = predictor_class(name)(hidden=8, members=1, steps=10, batch_size=8, **networks[name])
    pool = {"pool": 60} if name == "seminas" else {}
    return strategy_class(name)(initial=4, num_seeds=8, draws=3, memory=64, predictor=predictor, **pool)


def of_one_budget() -> list[str]:
    """The strategies of which every trial is of one budget; `test_halving.py` has the others."""
    from strategies import STRATEGIES, strategy_class
    from strategies.base import Budgeted

    return [name for name in STRATEGIES if not isinstance(strategy_class(name)(), Budgeted)]


@pytest.fixture
def unchecked():
    """Types are not checked: for claims about how values of other types are refused."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def task() -> Task:
    return bands()


def bands() -> Task:
    """Three classes that differ in the band of the image that is bright."""
    labels = np.arange(300) % 3
    images = np.random.default_rng(0).integers(0, 100, (300, 8, 8, 1)).astype(np.uint8)
    bright = np.arange(8)[None, :, None, None] // 3 == labels[:, None, None, None]
    return split("easy", images + 120 * bright.astype(np.uint8), labels, 3)


@functools.partial(jax.jit, static_argnums=0)
def measure_mixture(graph, weights, statistics, images, mixture):
    """Logits in evaluation, the statistics that are left, and the gradients by weights and mixture."""

    def loss(weights, mixture):
        logits, left = net.forward(graph, weights, statistics, images, mixture, train=False)
        return (logits**2).sum(), (logits, left)

    gradients, (logits, left) = jax.grad(loss, (0, 1), has_aux=True)(weights, mixture)
    return logits, left, *gradients


# A step is compiled for its recipe, so tests that train the supernet of MINI share this one.
RECIPE = Recipe(steps=50, batch_size=16, learning_rate=0.05, weight_decay=1e-3, checkpoint_seconds=0.0)


@pytest.fixture(scope="session")
def supernet():
    """The structure, weights and statistics of MINI's shared network, as it is initialised."""
    return net.split(MINI.supernet(jax.random.key(0)))
