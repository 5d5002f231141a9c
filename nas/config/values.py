"""The fields of a job, and which of them come in kinds."""

import dataclasses
import math
import operator
import re
from typing import Any

from nas.errors import UsageError
from nas.hosts import ADDRESS, FIELDS
from nas.plain import shown
from nas.report.command_lines import DEFAULT_STORE
from nas.seeds import check_seed
from nas.store.conditions import parse_where
from nas.tasks import Resize
from nas.training.recipe import Lookup, Paths, Recipe
from strategies.screening import Screening

Data = dict[str, Any]
RAY_ADDRESS = re.compile(rf"auto|(ray://)?{ADDRESS.pattern}")
TIME = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smh])")
MOST_SECONDS = 3600 * 24 * 365

# What fields may be. Memory is taken for as many as the user asks for, or processes are started.
RANGES = {
    "trials": (1, 10**7),
    "epochs": (1, 10**5),
    "workers": (0, 1000),
    "concurrency": (1, 10**5),
    "trial_seconds": (0, math.inf),
    "worker_gpus": (0, 1000),
    "num_processes": (1, 10**5),
    "process_id": (0, 10**5),
    "cost_bins": (1, 1000),
    "finalists": (0, 10**5),
    "baselines": (0, 1000),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """A search job."""

    space: Any = "shufflenet"
    """The search space: shufflenet, nasbench201, darts, nasnet, binary, binary-width or nas-fpn; with a size as
    NAME:PRESET; a backbone and a neck together as shufflenet+nas-fpn; or of your own, FILE.py:CLASS or MODULE:CLASS.
    --space NAME --help lists its own fields."""
    strategy: Any = "evolution"
    """The search strategy: random, local-search, regularized-evolution, evolution, nsga2, reinforce, ppo, bayesian, nao
    or seminas; with budgets that grow successive-halving, hyperband, asha or bohb; by gradients darts, gumbel-darts,
    snas, pc-darts, fair-darts, bnas, bats or bnas-beihang; or of your own, FILE.py:CLASS or MODULE:CLASS. --strategy
    NAME --help lists its own fields."""
    task: str = "digits"
    """The data: digits, fashion-mnist or cifar10; npz:FILE, an archive with the arrays images [n, height, width,
    channels] and labels [n], or with those of train_, valid_ and test_; folder:DIR, in which CLASS/IMAGE or
    train|valid|test/CLASS/IMAGE are JPEG, PNG, WebP, TIFF or BMP files; with objects to detect voc:DIR, with
    Annotations/*.xml and JPEGImages, coco:JSON,DIR, a file of annotations and the folder of its images, or scenes,
    drawn shapes of all sizes (scenes:small, scenes:large); of your own, FILE.py:FUNCTION or MODULE:FUNCTION; or what
    was measured before, table:FILE. `nas data check TASK` says what a search would read."""
    data_dir: str | None = None
    """The folder of the data, where the task needs one."""
    image_size: int | None = None
    """Pixels of a side to which images are resized. By default square images keep their size, and others become squares
    of their shorter side (of their longer one where padded); of a folder whose images are not all squares of one
    size they become 64 x 64, or 32 x 32 where most of them are smaller. Images with objects are scaled to fit 256 x
    256, or another multiple of 128."""
    resize: Resize = "crop"
    """How images that are not square become square: crop scales the shorter side and keeps the centre, pad scales the
    longer side and fills up with black, stretch scales each side by itself."""
    max_images: int | None = None
    """Use only so many images for training and validation, and as small a share of the test images."""
    skip_invalid: bool = False
    """Leave out images of a folder, and images and objects of a detection task, that are invalid, and say how many."""
    pretrain: str | None = None
    """Train bodies as classifiers of this task before they are parts of a detector, by the recipe `pretraining`: the
    supernet, and what is trained from scratch. For a detection task; --data-dir is then the folder of these images."""
    pretrain_image_size: int | None = None
    """Pixels of a side to which images of that task are resized; by default as with --image-size."""
    evaluator: Any = "supernet"
    """How candidates are scored: supernet, with shared weights; train, each from scratch by the recipe `final`;
    zero-cost, untrained; predicted, by a saved predictor; or by your own, FILE.py:CLASS or MODULE:CLASS.
    --evaluator NAME --help lists its own fields."""
    cost: str | None = None
    """A cost of your own, for limits and objectives: FILE.py:FUNCTION or MODULE:FUNCTION, called with the space and
    encodings."""
    latency: str | None = None
    """A table that `nas latency measure` wrote of this space: latency_ms is then a cost, for limits and objectives."""
    trials: int = 200
    """Architectures to evaluate."""
    epochs: int = 50
    """Passes of a gradient strategy over the images that weights are trained on; each derives one architecture."""
    ask_and_tell: bool = False
    """Stop before the first trial, for others to drive the search: `nas ask RUN` proposes, `nas tell RUN FILE` takes
    proposals and results. --resume then ends it with the trials that there are."""
    architecture: str | None = None
    """Search nothing: train this architecture, in the notation of the space or as a list of its choices, for `epochs`
    by the recipe `final`."""
    max_macs: float | None = None
    """Hard limit on the multiply-adds of one image."""
    max_params: float | None = None
    """Hard limit on the number of parameters."""
    limit: str | None = None
    """Hard limits on any costs, such as "macs <= 3e6 and pixel3_latency_ms <= 5"."""
    objectives: str = "error"
    """What is minimised, such as error,macs, or maximised where more is better, such as naswot; strategies for one
    objective go by the first. By default what the evaluator measures: the metric of the task; zero-cost naswot;
    predicted the score that is predicted."""
    time: str | None = None
    """Plan the job for about so long on this machine, such as 90s, 30m or 2h: how many steps of trainings and how many
    trials fit is measured before it begins, in one process, said and stored. What you give of these yourself stays. For
    --evaluator supernet."""
    seed: int = 0
    """Of weights, batches, paths and proposals."""
    name: str | None = None
    """Of the run; by default space-strategy-task-seed."""
    log: str | None = None
    """Send what is measured to other programs too: tensorboard:DIR, mlflow:URI or wandb:PROJECT, or several with commas
    between them."""
    store: str = DEFAULT_STORE
    """The database of all runs."""
    files: str | None = None
    """The folder in which the files of all runs lie, such as one that other machines reach; by default beside a SQLite
    file, or of a server in the working folder."""
    workers: int = 2
    """Ray workers; 0 evaluates in this process."""
    concurrency: int = 8
    """Trials asked for before the first of them is told. It shapes the search; the number of workers does not."""
    unordered: bool = False
    """Tell results as they arrive: keeps slow trials from holding up others, and gives up repeatability."""
    trial_seconds: float = 600.0
    """Time limit of one evaluation by a Ray worker; 0 for none."""
    ray_address: str | None = None
    """Join the Ray cluster at this address instead of starting one."""
    worker_gpus: float | None = None
    """Of GPUs that each Ray worker has: 0.5 lets two share one. By default all that there are, shared out, no more than
    one each."""
    coordinator_address: str | None = None
    """Train the supernet in several processes together, one a host: HOST:PORT of process 0, the same for all; or auto,
    where JAX finds them by itself, as with SLURM. Process 0 has the store, and goes on alone after the training."""
    num_processes: int | None = None
    """How many processes train together."""
    process_id: int | None = None
    """Which of them this one is, from 0."""
    paths: Paths = "uniform"
    """How the supernet's training samples paths: uniformly; fairly, in rounds in which each choice of a decision is
    trained once; or uniformly over bins of multiply-adds."""
    cost_bins: int = 7
    """Bins of cost-binned sampling."""
    table: Lookup = Lookup()
    """What is looked up in a table."""
    prior: str | None = None
    """What you believe before the search, as weights of choices, such as "k5=3; stage 1, block 2: xception=0", where
    all others have 1. Some proposals are drawn by them, the fewer the more was evaluated; the names are those that
    `nas report` shows."""
    prescreen: str | None = None
    """Evaluate only what a predictor finds promising: a saved one by name, or a kind that is fitted on the way. It
    screens by one objective."""
    screening: Screening = Screening()
    """How it screens."""
    warm_start: str | None = None
    """The saved predictor from which the strategy's own goes on (bayesian, nao, seminas)."""
    save_predictor: str | None = None
    """Save what the strategy's predictor has learned from all trials, under this name."""
    training: Recipe = Recipe(steps=2500, batch_size=64, learning_rate=0.2)
    """The recipe of the supernet. For detection its defaults are others: 1500 steps of 8 images, flipped and scaled, at
    a rate of 0.02."""
    pretraining: Recipe = Recipe(steps=2500, batch_size=64, learning_rate=0.2)
    """The recipe by which --pretrain trains classifiers."""
    final: Recipe = Recipe(steps=1000, batch_size=64)
    """The recipe of training from scratch; for detection by default as that of the supernet, but of 1000 steps."""
    finalists: int = 1
    """How many of the best architectures are trained from scratch and tested."""
    baselines: int = 3
    """How many random architectures of no greater cost than the best, and near it, are trained beside them; with --time
    five, where there is time for them."""

    def __post_init__(self):
        for field, (low, high) in RANGES.items():
            value = getattr(self, field)
            if value is None:
                continue
            if not value >= low:
                raise ValueError(f"{field}={value} must be at least {low}")
            if value > high:
                raise ValueError(f"{field}={value} must be at most {high}")
        if self.worker_gpus is not None and self.worker_gpus > 1 and self.worker_gpus % 1:
            raise ValueError(f"worker_gpus={self.worker_gpus} must be a part of 1, or a whole number")
        address = None if self.ray_address is None else RAY_ADDRESS.fullmatch(self.ray_address)
        if self.ray_address is not None and (address is None or int(address[3] or 1) not in range(1, 2**16)):
            raise ValueError(f"ray_address={shown(repr(self.ray_address))} must be auto, HOST:PORT or ray://HOST:PORT")
        check_seed(self.seed)
        names = self.objectives.split(",")
        if not all(names) or len(set(names)) < len(names):
            raise ValueError(f"objectives={self.objectives!r} must be different names, such as error,macs")
        _ = self.limits, self.seconds

    @property
    def seconds(self) -> float | None:
        """Those of `time`."""
        if self.time is None:
            return None
        found = TIME.fullmatch(self.time)
        seconds = float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
        if not 1 <= seconds <= MOST_SECONDS:
            raise ValueError(
                f"time={self.time!r} must be a number of seconds, minutes or hours, such as 90s, 30m or 2h"
            )
        return seconds

    @property
    def objective(self) -> str:
        """The first: what finalists are chosen by."""
        return self.objectives.split(",")[0]

    @property
    def limits(self) -> tuple[tuple[str, float], ...]:
        given = {"macs": self.max_macs, "params": self.max_params}
        for name, most in given.items():
            if most is not None and math.isnan(most):
                raise ValueError(f"max_{name}={most} must be a number")
        return tuple((name, float(most)) for name, most in given.items() if most is not None) + parse_limits(self.limit)


def parse_limits(text: str | None) -> tuple[tuple[str, float], ...]:
    """The limits in `name <= number and ...`. Raises UsageError."""
    conditions = [] if text is None else parse_where(text, "limit")
    for name, compare, _ in conditions:
        if compare is not operator.le:
            raise UsageError(f"limit={text!r}: the most that {name} may be is written with <=")
    return tuple((name, most) for name, _, most in conditions)


# What comes in kinds, with fields of its own: see `BUILDERS`.
PARTS = ("space", "strategy", "evaluator")
# What the task, the objectives and the backbone of a neck decide, not the user.
BOUND = ("image_size", "image_channels", "num_classes", "num_objectives", "map_widths")
# In which order the help shows the other fields, and under which headings.
GROUPS = {
    "what is searched": ("space", "strategy", "task", "evaluator", "trials", "epochs", "time", "seed", "name"),
    "limits and objectives": ("max_macs", "max_params", "limit", "objectives", "cost", "latency"),
    "data": ("data_dir", "image_size", "resize", "max_images", "skip_invalid", "pretrain", "pretrain_image_size"),
    "final training": ("finalists", "baselines", "architecture"),
    "driven by others": ("ask_and_tell",),
    "where it runs": ("store", "files", "log", "workers", "concurrency", "unordered", "trial_seconds"),
    "clusters": ("ray_address", "worker_gpus", "coordinator_address", "num_processes", "process_id"),
    "what is known before": ("prior", "prescreen", "warm_start", "save_predictor"),
    "sampling of paths": ("paths", "cost_bins"),
}
# Fields with fields of their own.
NESTED = ("table", "screening", "training", "pretraining", "final")
# What may differ when a run is resumed: where it runs, not what it computes.
RESUMABLE = ("store", "files", "workers", "trial_seconds", "ray_address", "worker_gpus", *FIELDS, "data_dir", "log")
ELSEWHERE = ("store", "files", *FIELDS)  # what is not kept with a run
