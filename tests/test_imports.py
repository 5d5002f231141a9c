"""Imports point inward, and what is heavy or dangerous is imported in the one place that needs it."""

import ast
import functools
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("nas", "spaces", "strategies", "predictors")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for top in OURS for path in sorted((ROOT / top).rglob("*.py"))}


def imports(module: str, *, lazy: bool = True, typing: bool = False) -> Iterator[str]:
    """The modules that a module imports, wherever in it; with `lazy` False, only when it is itself imported.

    `from nas import store` is an import of `nas.store.sql`. What only a type checker sees counts with `typing`.
    """

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not typing:
            return
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for child in ast.iter_child_nodes(node):
                yield from walk(child)

    yield from walk(parsed(module))


@functools.cache
def parsed(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def below(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def of(*packages: str) -> list[str]:
    return [module for module in MODULES if below(module, *packages)]


def importers(package: str) -> set[str]:
    return {module for module in MODULES if any(below(name, package) for name in imports(module))}


# What each part may import of ours. Whoever is not here may import anything that does not forbid it below.
ALLOWED = {
    "spaces": ["spaces"],
    "strategies": ["spaces", "strategies", "predictors"],
    "predictors": ["spaces", "nas.seeds", "nas.streams", "predictors"],
    "strategies.base": ["spaces"],
    "strategies.screening": [],
    "nas.engine.loop": [
        "spaces",
        "strategies.base",
        "nas.engine.executors",
        "nas.engine.proposals",
        "nas.errors",
        "nas.evaluators.base",
        "nas.training.compilation",
    ],
    "nas.engine.proposals": ["spaces", "strategies.base", "nas.errors"],
    "nas.errors": [],
    "nas.hosts": ["nas.errors", "nas.interrupts"],
    "nas.shipped": ["nas.errors"],
    "nas.registry": [
        "nas.errors",
        "nas.plain",
        "nas.shipped",
        "nas.tasks",
        "nas.evaluators",
        "spaces",
        "strategies",
        "predictors",
    ],
    "nas.training": [
        *("spaces", "strategies.base", "nas.tasks", "nas.training", "nas.saved.checkpoint"),
        *("nas.devices", "nas.errors", "nas.hosts", "nas.interrupts", "nas.plain", "nas.streams"),
    ],
    "nas.evaluators": [
        *("spaces", "nas.tasks", "nas.tables", "nas.training", "nas.evaluators"),
        *("nas.devices", "nas.errors", "nas.metrics", "nas.plain", "nas.registry", "nas.streams"),
    ],
    "nas.store": ["nas.store", "nas.errors", "nas.metrics", "nas.plain"],
    "nas.report": ["nas.report", "nas.store", "nas.errors", "nas.interrupts", "nas.metrics", "nas.plain", "spaces"],
    "nas.training.recipe": [],
    "nas.metrics": [],
    "nas.seeds": [],
    "nas.environment": [],
    "nas.plain": ["nas.errors"],
    "nas.unfinished": [],
    "nas.streams": [],
    "nas.devices": ["nas.hosts"],
    "nas.npz": ["nas.errors", "nas.plain"],
    "nas.unpickle": ["nas.errors", "nas.plain"],
    "nas.tasks": [
        *(
            "nas.tasks",
            "spaces",
            "nas.devices",
            "nas.errors",
            "nas.hosts",
            "nas.npz",
            "nas.plain",
            "nas.registry",
            "nas.unfinished",
            "nas.unpickle",
        ),
    ],
    "nas.saved.checkpoint": ["nas.errors", "nas.plain"],
    "nas.testing.faults": [
        *("spaces", "nas.store", "nas.tables", "nas.testing.faults", "nas.errors", "nas.plain", "nas.saved.checkpoint"),
    ],
}


def test_the_modules_are_found():
    assert {
        "nas.engine.loop",
        "spaces.base",
        "strategies.evolution",
        "nas.evaluators.supernet",
        "nas",
    } <= MODULES.keys()
    assert "spaces.base" in set(imports("strategies.evolution"))
    assert "nas.tasks.fashion" in set(imports("nas.tasks"))
    assert "nas.tasks.fashion" not in set(imports("nas.tasks", lazy=False))


@pytest.mark.parametrize("part", ALLOWED)
def test_a_part_imports_only_what_lies_further_in(part):
    for module in of(part):
        ours = {name for name in imports(module, typing=True) if below(name, *OURS)}
        odd = {name for name in ours if not below(name, *ALLOWED[part])}
        assert not odd, f"{module} imports {sorted(odd)}"


def test_evaluators_know_no_strategies():
    for module in of("nas.evaluators"):
        assert not [name for name in imports(module) if below(name, "strategies", "nas.engine.loop", "nas.store.sql")]


def test_the_loop_knows_neither_store_nor_pool():
    reached, waiting = set(), ["nas.engine.loop"]
    while waiting:
        module = waiting.pop()
        if module in MODULES and module not in reached:
            reached.add(module)
            waiting += imports(module)
    assert not reached & {"nas.store.sql", "nas.engine.ray_pool", "nas.job.run", "nas.config"}


ONLY_IN = {
    "ray": {"nas.engine.ray_pool", "nas.engine.ray_session"},
    "sqlalchemy": {*of("nas.store")},
    "alembic": {*of("nas.store.migrations")},
    "pickle": {"nas.unpickle"},
    "matplotlib": {"nas.report.plots"},
    "yaml": {"nas.config.yaml_files"},
    "pydantic": {"nas.config.building"},
    "random": set(),
}


@pytest.mark.parametrize("package", ONLY_IN)
def test_what_is_heavy_or_dangerous_is_imported_in_one_place(package):
    assert importers(package) <= ONLY_IN[package]


COMMANDS = ["nas.commands.cli", "nas.commands.search", "run_search", "nas.__main__", "nas.testing.faults.__main__"]


@pytest.mark.parametrize("entry", COMMANDS)
def test_nobody_imports_a_command(entry):
    assert importers(entry) <= {"nas.__main__"}


def test_a_search_knows_nothing_of_faults():
    assert {module for module in importers("nas.testing.faults") if not below(module, "nas.testing.faults")} == set()


def test_nobody_imports_the_tests_or_the_benchmarks():
    assert not importers("tests") | importers("benchmarks") | importers("conftest")


@pytest.mark.parametrize("module", ["nas.engine.ray_pool", "nas.job.run", "nas.saved.networks"])
def test_what_is_slow_to_import_is_imported_when_it_is_used(module):
    eager = {other for other in MODULES if module in set(imports(other, lazy=False))}
    assert eager == set()


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_imports_what_there_is(path):
    """They are run by hand: a name that has moved would be missed when somebody measures."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in OURS:
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name) or f"{node.module}.{alias.name}" in MODULES


def test_exact_versions_are_listed_of_all_that_the_package_and_its_tests_need():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = {
        name: [each for each in group if isinstance(each, str)] for name, group in project["dependency-groups"].items()
    }
    wanted = [*project["project"]["dependencies"], *(each for group in groups.values() for each in group)]
    names = {re.split(r"[\[<>=]", each)[0].lower().replace("_", "-") for each in wanted}
    listed = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock.txt").read_text().lower(), re.MULTILINE))
    assert names - listed == set()
