"""`nas spaces`, `nas strategies`, `nas tasks`, `nas evaluators`, `nas predictors kinds`: what there is, a line each."""

import argparse
from collections.abc import Sequence

from nas.config import Parser
from nas.registry import entry_points, ours
from nas.report import output
from nas.store.query import Row

# What each of our own parts is, for people who choose one.
LINES: dict[str, dict[str, str]] = {
    "space": {
        "shufflenet": "a chain of blocks of ShuffleNetV2, each one of four (SPOS, DetNAS): the default",
        "nasbench201": "one cell of four nodes, one of five operations on each of its six edges",
        "darts": "a normal and a reduction cell of four nodes, two operations each on earlier states",
        "nasnet": "two cells of five blocks; has no shared weights: draw, count, train from scratch",
        "binary": "cells of layers of one bit, in the forms of BNAS, BATS and Beihang's BNAS",
        "binary-width": "how wide each layer of a binary ResNet-18 or VGG-small is",
        "nas-fpn": "the merging cells of a detector's feature pyramid",
    },
    "strategy": {
        "random": "uniform within the limits: what every other strategy must beat",
        "local-search": "tries neighbours of the best, starts anew when none is better: for up to 200 trials",
        "regularized-evolution": "mutates the best of a sample of a queue; the oldest dies (AmoebaNet)",
        "evolution": "mutates and crosses the best few, within hard limits (SPOS): the default",
        "nsga2": "several objectives at once; gives a front",
        "reinforce": "a policy of one distribution a decision, moved along the reward's gradient",
        "ppo": "the recurrent controller of NASNet, trained by proximal policy optimisation",
        "bayesian": "a Gaussian process and expected improvement: for few, costly trials",
        "successive-halving": "many are trained for a little, one of three goes on, and so on: for --evaluator train",
        "hyperband": "brackets of successive halving that trust the short trainings less and less",
        "asha": "successive halving that promotes as it goes along",
        "bohb": "hyperband whose new architectures a Gaussian process proposes",
        "nao": "gradient steps in a learned embedding of architectures",
        "seminas": "as nao, and its predictor also learns from architectures that nobody evaluated",
        "darts": "by gradients: every edge mixes all operations",
        "pc-darts": "by gradients: a part of the channels is mixed, and edges compete",
        "fair-darts": "by gradients: operations do not compete, each has a gate of its own",
        "gumbel-darts": "by gradients: one operation an edge is sampled in each step, so steps are cheap (GDAS)",
        "snas": "by gradients: mixtures with Gumbel noise that grow sharper",
        "bnas": "by gradients: a bonus for diverse operations, which fades; made for one bit",
        "bats": "by gradients: a sharper softmax; made for one bit",
        "bnas-beihang": "by gradients: operations are given up one by one; made for one bit",
    },
    "task": {
        "digits": "1,797 digits of 8 x 8 pixels; comes with scikit-learn: the default",
        "fashion-mnist": "70,000 grey images of clothes, 28 x 28 pixels; of --data-dir, or Debian's package",
        "cifar10": "60,000 colour images, 32 x 32 pixels; --data-dir says where they lie",
        "npz:FILE": "an archive with the arrays images and labels; labels that are floats are learned as numbers",
        "folder:DIR": "your photos, as CLASS/IMAGE, or in a tar",
        "voc:DIR": "objects to detect, as Pascal VOC annotates them",
        "coco:JSON,DIR": "objects to detect, as COCO annotates them",
        "scenes": "made images of drawn shapes, to detect",
        "scenes:small": "the same, with small shapes alone",
        "scenes:large": "the same, with large shapes alone",
        "table:FILE": "what somebody measured of every architecture: nothing is trained",
    },
    "evaluator": {
        "supernet": "with the weights that all architectures share, statistics measured anew: the default",
        "train": "each from scratch, by the recipe --final",
        "zero-cost": "untrained, by scores of networks as they are initialised",
        "predicted": "by a saved predictor, at no cost",
    },
    "predictor": {
        "auto": "gp, linear and boosted-trees together, each weighed by how well it orders unseen architectures",
        "linear": "Bayesian linear regression on choices: the simplest one",
        "gp": "a Gaussian process on features of architectures",
        "gates": "operations as gates on the flow of information through the graph",
        "nao": "an encoder of the sequence of decisions, which also writes architectures",
        "seminas": "as nao; learns from architectures without scores too",
        "mlp-ensemble": "small networks on features of architectures",
        "boosted-trees": "LightGBM on features of architectures (the extra `trees`)",
    },
}


def spaces(argv: Sequence[str]) -> str:
    return _told("nas spaces", "space", "nas search --space NAME --help lists the fields of one.", argv)


def strategies(argv: Sequence[str]) -> str:
    return _told("nas strategies", "strategy", "nas search --strategy NAME --help lists the fields of one.", argv)


def tasks(argv: Sequence[str]) -> str:
    return _told("nas tasks", "task", "nas data check TASK shows what a search would read.", argv)


def evaluators(argv: Sequence[str]) -> str:
    return _told("nas evaluators", "evaluator", "nas search --evaluator NAME --help lists the fields of one.", argv)


def kinds_of_predictors(argv: Sequence[str]) -> str:
    return _told("nas predictors kinds", "predictor", "nas predictors fit KIND --from-run RUN fits one.", argv)


def _told(program: str, kind: str, more: str, argv: Sequence[str]) -> str:
    options = flags(program, more).parse_args(argv)
    rows: list[Row] = [{"name": name, "what it is": LINES[kind][name]} for name in ours(kind)]
    if kind == "space":
        from spaces import presets

        rows = [{**row, "presets": " ".join(presets(row["name"]))} for row in rows]
    rows += [
        {"name": name, "what it is": f"of an installed package: {point.value}"}
        for name, point in sorted(entry_points(kind).items())
    ]
    if options.format != "table":
        return output.render(rows, ("name", "what it is"), options.format)
    wide = max(len(row["name"]) for row in rows)
    lines = [f"{row['name']:{wide}}  {row['what it is']}{_presets(row)}" for row in rows]
    return "\n".join([*lines, "", more, ""])


def _presets(row: Row) -> str:
    return f" [{row['presets']}]" if row.get("presets") else ""


def flags(program: str, more: str) -> argparse.ArgumentParser:
    parser = Parser(prog=program, description=f"What there is, a line each. {more}", allow_abbrev=False)
    form = "|".join(output.FORMATS)
    parser.add_argument("--format", type=output.known_format, default="table", metavar=form)
    return parser
