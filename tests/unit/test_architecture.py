"""Which way imports go, which library has which door, and what no file of the packages does."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("consumer", "model", "incremental", "deploy")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))

ARROWS = {
    "model": {"model"},
    "incremental": {"incremental", "model"},
    "consumer": {"consumer", "incremental", "model"},
    "deploy": {"deploy", "consumer", "incremental", "model"},
}
EXCEPT = {("consumer/cli.py", "deploy")}  # the command starts the demo

DOORS = {
    "kafka": ("consumer/kafka_io",),
    "prometheus_client": ("consumer/metrics.py",),
    "river": ("incremental/drift.py",),
    "fsspec": ("consumer/remote_store.py",),
    "torch": ("model/", "incremental/"),
    "time": ("consumer/clock.py", "deploy/"),
}
FORBIDDEN = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {"torch.load", "torch.save", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
LONGEST_FUNCTION = 60

Check = Callable[[str, ast.Module], Iterator[str]]


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and first name of every import, the late ones and those for types alone included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, (node.module or "").partition(".")[0] if node.level == 0 else "a relative import"


def wrong_way(path: str, tree: ast.Module) -> Iterator[str]:
    allowed = ARROWS[path.partition("/")[0]]
    for line, name in imports(tree):
        if name in {*PACKAGES, "a relative import", "tests"} - allowed and (path, name) not in EXCEPT:
            yield f"{path}:{line} imports {name}"


def wrong_door(path: str, tree: ast.Module) -> Iterator[str]:
    for line, name in imports(tree):
        if name in DOORS and not path.startswith(DOORS[name]):
            yield f"{path}:{line} imports {name}; its door is {' or '.join(DOORS[name])}"


def unsafe(path: str, tree: ast.Module) -> Iterator[str]:
    yield from (f"{path}:{line} imports {name}" for line, name in imports(tree) if name in FORBIDDEN)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not path.startswith("deploy/"):
            name = ".".join(ast.unparse(node).split(".")[-2:])
            if name in FORBIDDEN_CALLS:
                yield f"{path}:{node.lineno} uses {name}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield f"{path}:{node.value.lineno} allows pickle"


def swallowed(path: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or any(
                isinstance(part, ast.Name) and part.id in {"Exception", "BaseException"} for part in ast.walk(node.type)
            )
            if broad and all(_does_nothing(statement) for statement in node.body):
                yield f"{path}:{node.lineno} swallows every exception"
        elif isinstance(node, ast.Call) and _suppresses_all(node):
            yield f"{path}:{node.lineno} suppresses every exception"


def _suppresses_all(call: ast.Call) -> bool:
    broad = {"Exception", "BaseException"} & {ast.unparse(argument) for argument in call.args}
    return bool(broad) and ast.unparse(call.func).endswith("suppress")


def _does_nothing(statement: ast.stmt) -> bool:
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return constant or isinstance(statement, ast.Pass | ast.Continue)


def too_long(path: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = (node.end_lineno or 0) - node.body[0].lineno + 1  # options of a command are a table, not a body
            if body > LONGEST_FUNCTION:
                yield f"{path}:{node.lineno} {node.name} has {body} lines"


CHECKS: tuple[Check, ...] = (wrong_way, wrong_door, unsafe, swallowed, too_long)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_no_file_breaks_the_rule(check: Check) -> None:
    found = []
    for file in FILES:
        path = file.relative_to(ROOT).as_posix()
        found += check(path, ast.parse(file.read_text(encoding="utf-8"), path))
    assert found == []


@pytest.mark.parametrize(
    ("check", "path", "code"),
    [
        (wrong_way, "model/x.py", "from consumer.ports import Clock"),
        (wrong_way, "model/x.py", "def f():\n    import incremental.learner"),
        (wrong_way, "incremental/x.py", "if TYPE_CHECKING:\n    from consumer import ports"),
        (wrong_way, "consumer/run.py", "from deploy.demo import run_demo"),
        (wrong_way, "consumer/x.py", "from . import ports"),
        (wrong_door, "consumer/x.py", "import torch.nn"),
        (wrong_door, "consumer/health.py", "import prometheus_client"),
        (wrong_door, "deploy/x.py", "from kafka import KafkaProducer"),
        (wrong_door, "incremental/learner.py", "from river import drift"),
        (wrong_door, "model/x.py", "import time"),
        (unsafe, "model/x.py", "import pickle"),
        (unsafe, "model/x.py", "torch.load('x')"),
        (unsafe, "consumer/x.py", "datetime.datetime.now()"),
        (unsafe, "model/x.py", "np.load('x', allow_pickle=True)"),
        (swallowed, "model/x.py", "try:\n    f()\nexcept Exception:\n    pass"),
        (swallowed, "model/x.py", "try:\n    f()\nexcept:\n    ..."),
        (
            swallowed,
            "model/x.py",
            "for x in y:\n    try:\n        f()\n    except (OSError, Exception):\n        continue",
        ),
        (swallowed, "model/x.py", "with suppress(Exception):\n    f()"),
        (too_long, "model/x.py", "def f():\n" + "    x = 1\n" * 61),
    ],
)
def test_each_rule_can_be_broken(check: Check, path: str, code: str) -> None:
    assert len(list(check(path, ast.parse(code)))) == 1


@pytest.mark.parametrize(
    ("check", "path", "code"),
    [
        (wrong_way, "consumer/cli.py", "from deploy.demo import run_demo"),
        (wrong_way, "incremental/x.py", "from model.contexts import Contexts"),
        (wrong_door, "consumer/kafka_io/sink.py", "import kafka"),
        (wrong_door, "consumer/x.py", "import timeit"),
        (unsafe, "model/x.py", "np.load('x', allow_pickle=False)"),
        (swallowed, "model/x.py", "try:\n    f()\nexcept OSError:\n    pass"),
        (swallowed, "model/x.py", "try:\n    f()\nexcept Exception:\n    end()"),
    ],
)
def test_what_is_allowed_is_left_alone(check: Check, path: str, code: str) -> None:
    assert list(check(path, ast.parse(code))) == []


def test_there_is_something_to_check() -> None:
    assert {file.relative_to(ROOT).parts[0] for file in FILES} >= {"consumer", "model", "incremental"}
