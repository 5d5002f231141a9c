"""The card of an exported network: what it is, what it learned from, how good it is, and how it is used.

Texts out of the store are data: whatever would be markup in them is escaped.
"""

import html
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from nas.config import Config, named
from nas.config.yaml_files import as_yaml
from nas.metrics import outer, seen
from nas.plain import shown
from nas.report import output
from nas.store.query import Run
from nas.store.sql import Store

NAME, CONFIG = "README.md", "run.yaml"
MARKUP = re.compile(r"([\\`*_{}\[\]#!|~$@]|:(?=//)|\bwww(?=\.))")
MOST_CLASSES = 50  # that are listed
FEWEST = ("macs", "params")  # costs, which come first

# How each kind of file is used. Fields in braces are filled in.
USES = {
    "weights.safetensors": """import nas

model = nas.load(".")  # this folder
{answers}
""",
    "model.onnx": """import numpy as np, onnxruntime

model = onnxruntime.InferenceSession("model.onnx")
{images}  # pixels of 0 to 255
{outputs} = model.run(None, {{"images": images}})
""",
    "model.stablehlo": """import numpy as np
from jax import export

model = export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
{images}  # pixels of 0 to 255, any number of images
answers = model.call(images)
""",
}
# How a photo in colour becomes such an image, by `resize` of the description.
PHOTO = """from PIL import Image, ImageOps

photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")  # upright, 8 bits a channel
{square}
images = np.asarray(square)[None]"""
SQUARES = {
    "crop": """side = min(photo.size)
left, top = (photo.width - side) // 2, (photo.height - side) // 2
square = photo.crop((left, top, left + side, top + side)).resize(({size}, {size}), Image.Resampling.BILINEAR)""",
    "pad": """width, height = (max(1, round(each * {size} / max(photo.size))) for each in photo.size)
square = Image.new("RGB", ({size}, {size}))
inside = photo.resize((width, height), Image.Resampling.BILINEAR)
square.paste(inside, (({size} - width) // 2, ({size} - height) // 2))""",
    "stretch": "square = photo.resize(({size}, {size}), Image.Resampling.BILINEAR)",
}
ANSWERS = {
    "classification": 'names = model.classify(model.prepare(["photo.jpg"]))',
    "regression": 'numbers = model.predict(model.prepare(["photo.jpg"]))',
    "detection": 'objects = model.detect(["photo.jpg"], least=0.3)',
}
GIVES = {
    "classification": "logits `[n, {classes}]`, one for each class, in the order above",
    "regression": "numbers `[n, 1]`, in the unit of the labels",
    "detection": (
        "objects `[n, 100, 6]`, by falling probability: corners x0, y0, x1 and y1 in shares of the side, probability, "
        "and the place of the class in the list above, -1 where there is none"
    ),
}
PARTS = (
    "probabilities `scores [n, anchors, {classes}]` and corners `boxes [n, anchors, 4]` in shares of the side; boxes "
    "that overlap a better one of the same class are still among them"
)


def text(value: Any, most: int = 2000) -> str:
    """Data in a line of Markdown, in which nothing is markup."""
    line = " ".join(re.sub(r"[^\S ]|[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", str(value)).split())
    return MARKUP.sub(r"\\\1", html.escape(shown(line, most), quote=False))


def files(store: Store, run: Run, description: Mapping[str, Any], drawing: str | None) -> dict[str, str]:
    """The card, and beside it the configuration of the run, where the store has it."""
    given = run.config.get("given")
    given = given if isinstance(given, dict) else None
    parts = [
        _head(run, description, drawing),
        _data(description),
        _metrics(store, run, description),
        _costs(description),
        _origin(run, description, given is not None),
        _use(description),
    ]
    found = {NAME: "\n".join(parts)}
    if given is not None:
        # What was planned for a time is said, not to be planned anew elsewhere.
        found[CONFIG] = as_yaml({**given, "name": None, "ray_address": None, "time": None})
    return found


def _head(run: Run, description: Mapping[str, Any], drawing: str | None) -> str:
    space = text(named(description["space"], "space")[0])
    lines = [
        f"# A network of {space} for {text(description.get('task', 'images'))}\n",
        "## Architecture\n",
        f"- space: {space}",
        f"- architecture: {text(description.get('description', ''))}",
        f"- id: {text(description.get('architecture', ''))}",
        f"- encoding: {text(description.get('encoding', ''))}",
    ]
    if not description.get("trained_alone", True):
        said = "**It was not trained alone.** Its weights are those that all architectures of its run shared"
        lines.append(f"\n{said}, and its statistics were measured anew. Trained from scratch it may be much better.")
    if drawing:
        lines.append(f"\n![The architecture]({drawing})")
    return "\n".join(lines) + "\n"


def _data(description: Mapping[str, Any]) -> str:
    lines = ["## Data\n", f"- task: {text(description.get('task', 'not known'))}"]
    if images := description.get("images"):
        counts = ", ".join(f"{text(count)} {what}" for what, count in images.items())
        lines.append(f"- images: {counts}")
    if given := description.get("input"):
        how = f"{given['size']} x {given['size']} pixels, {given['channels']} channel(s), uint8 of 0 to 255"
        lines.append(f"- a network's image: {how}; channels come last")
    if how := description.get("resize"):
        lines.append(f"- images of other sizes were made square by: {text(how)}")
    moments = {"mean": "mean", "std": "deviation"}
    said = ", ".join(f"{word} {_numbers(description[name])}" for name, word in moments.items() if name in description)
    lines.append(f"- channels are scaled inside of the network, of 0 to 1 by {said}")
    classes = description.get("classes") or []
    if classes:
        names = ", ".join(text(name, 100) for name in classes[:MOST_CLASSES])
        more = f", and {len(classes) - MOST_CLASSES} more in architecture.json" if len(classes) > MOST_CLASSES else ""
        lines.append(f"- {len(classes)} classes, in order: {names}{more}")
    lines.append("- the licence of the data is not known")
    return "\n".join(lines) + "\n"


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _metrics(store: Store, run: Run, description: Mapping[str, Any]) -> str:
    """Of the search and of the training alone, each with what it means."""
    metric = run.metric
    evaluator = named((run.config.get("given") or {}).get("evaluator", Config.evaluator), "evaluator")[0]
    rows = []
    for kind in ("search", "final"):
        for trial in store.trials(run.id, kind):
            if trial.architecture == description.get("architecture") and trial.state == "finished":
                measured = {name: value for name, value in trial.measurements.items() if _is_metric(name, metric, run)}
                rows += [(name, value, _meaning(name, kind, evaluator)) for name, value in measured.items()]
    lines = ["## Metrics\n"]
    if not rows:
        return "\n".join([*lines, "None is in the store."]) + "\n"
    lines += ["| metric | value | what it is |", "|---|---:|---|"]
    for name, value, meaning in dict.fromkeys(rows):
        shown_name, number = seen(name, value)
        lines.append(f"| {text(shown_name)} | {text(output.number(shown_name, number))} | {meaning} |")
    return "\n".join(lines) + "\n"


def _is_metric(name: str, metric: str, run: Run) -> bool:
    objectives = str((run.config.get("given") or {}).get("objectives", "")).split(",")
    return name in (metric, *objectives) or name.startswith(("standalone_", "test_"))


def _meaning(name: str, kind: str, evaluator: str) -> str:
    if name.startswith("test_"):
        return "on test images, which nothing was chosen by; measured once, after the last step of training"
    if name.startswith("standalone_"):
        return "on validation images, after training from scratch"
    if kind == "search":
        return f"in the search, on validation images where it looks at images, by evaluator {text(evaluator)}"
    return "after training from scratch"


def _costs(description: Mapping[str, Any]) -> str:
    """What was counted: of an image, and of the network."""
    counted = {
        outer(name): value
        for name, value in (description.get("metrics") or {}).items()
        if not name.startswith(("standalone_", "test_")) and isinstance(value, int | float)
    }
    means = {"macs": "multiply-adds of one image", "params": "parameters"}
    names = [*(name for name in FEWEST if name in counted), *sorted(counted.keys() - set(FEWEST))]
    lines = ["## Costs\n"]
    for name in names:
        meaning = f", {means[name]}" if name in means else ""
        lines.append(f"- {text(name)}: {text(output.number(name, counted[name]))}{meaning}")
    return "\n".join(lines if names else [*lines, "None was counted."]) + "\n"


def _origin(run: Run, description: Mapping[str, Any], configured: bool) -> str:
    lines = [
        "## Where it comes from\n",
        f"- run: {text(run.name)}, strategy {text(run.strategy)}, begun {text(run.started)}",
        f"- seed of the run: {text(run.seed)}",
        f"- version of nas-engine: {text(run.code_version)}",
    ]
    if not configured:
        return "\n".join([*lines, "- its configuration is not in the store"]) + "\n"
    commands = (
        f"nas search --config {CONFIG}",
        f"nas show {shlex.quote(_line(description.get('architecture', '')))}",
    )
    lines.append("\nThe first command does the same again, the second asks the store what it knows:\n")
    return "\n".join([*lines, _block("", commands)])


def _use(description: Mapping[str, Any]) -> str:
    kind = str((description.get("kind") or {}).get("name", "classification"))
    classes, given = len(description.get("classes") or []), description.get("input") or {}
    file = description["file"]
    fields = {"size": given.get("size"), "images": _images(kind, description)}
    raw = file == "model.onnx" and kind == "detection"
    outputs = "scores, boxes" if raw else "(answers,)"
    code = USES[file].format(answers=ANSWERS.get(kind, ""), outputs=outputs, **fields)
    lines = ["## Use\n", _block("python", code.strip().splitlines())]
    if file == "weights.safetensors":
        ask = "detect" if kind == "detection" else "predict"
        if kind != "regression":
            lines += ["or, of any photos:\n", _block("", [f"nas {ask} ./ photo.jpg"])]
        if ".py:" in (space := named(description.get("space", ""), "space")[0]):
            said = "Its space is code of somebody's own, which is not in this folder and is run only where you name it:"
            name = f"path/to/{_line(space)}"
            ways = [f"nas.registry.own('space', {name!r})  # before nas.load", f"nas {ask} ./ photo.jpg --space {name}"]
            lines += [said + "\n", _block("", ways)]
        lines.append("Nothing in this folder is code: it is JSON and safetensors, read by `pip install nas-engine`.")
    else:
        gives = (PARTS if raw else GIVES.get(kind, "answers")).format(classes=classes)
        lines.append(f"It gives {gives}.")
        if file == "model.onnx":
            number = description.get("batch")
            lines.append(f"A batch has {'any number of images' if number is None else f'{number} image(s)'}.")
        else:
            lines.append(f"It runs on {', '.join(map(text, description.get('platforms', ())))}, without nas-engine.")
        trial = description.get("trial") or {}
        if differing := trial.get("differing"):
            tried = f"For {differing} of {trial['images']} images on which the file was tried its numbers differ"
            why = "a sum that is rounded otherwise may lie on the other side of 0, where only its sign counts"
            lines.append(f"{tried} from those of nas-engine: {why}.")
    return "\n".join(lines) + "\n"


def _images(kind: str, description: Mapping[str, Any]) -> str:
    """Code that makes images for a network: of a photo where that is a few lines, else black ones."""
    given = description.get("input") or {}
    size, channels, batch = given.get("size"), given.get("channels"), description.get("batch") or 1
    if kind == "detection" or channels != 3 or batch != 1:
        return f"images = np.zeros(({batch}, {size}, {size}, {channels}), np.uint8)"
    how = SQUARES.get(str(description.get("resize") or "crop"), SQUARES["crop"])
    return PHOTO.format(square=how.format(size=size))


def _block(language: str, lines: Iterable[str]) -> str:
    """Code, which no line of it ends."""
    return "\n".join([f"```{language}", *map(_line, lines), "```\n"])


def _line(value: Any) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", str(value))
