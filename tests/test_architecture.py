"""Architecture as a test: who imports whom, what stays pure, which words belong where."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

from node import __version__

ROOT = Path(__file__).resolve().parent.parent

# Each package and those that it may import: tools -> node -> pipeline, never back.
MAY_IMPORT = {
    "pipeline": {"pipeline"},
    "node": {"node", "pipeline"},
    "tools": {"tools", "node", "pipeline"},
}

# Modules that decide and never perform: no clock, no randomness, no input or output, neither their
# own nor that of a first-party module that they import.
PURE = [
    *("pipeline.custody", "pipeline.descriptor", "pipeline.fair", "pipeline.layout"),
    *("pipeline.diagram", "pipeline.order", "pipeline.placement"),
    *("pipeline.topology", "pipeline.topology_rules", "pipeline.tray"),
    *("node.address", "node.admission", "node.agreement", "node.block", "node.consensus.*"),
    *("node.exchange.*", "node.fee_order", "node.genesis", "node.items", "node.ledger"),
    *("node.mempool", "node.mempool_journal", "node.newcomers", "node.orphans", "node.params"),
    "node.peer_frames",
    *("node.peer_link", "node.policy", "node.pool", "node.proofs", "node.prover"),
    *("node.orders", "node.query", "node.rpc.jsonrpc", "node.rpc.method", "node.rpc.shapes"),
    *("node.sign_link", "node.sign_queue", "node.signer", "node.storage.changes"),
    *("node.transaction", "node.verdict", "node.wal"),
    *("node.network.address", "node.network.bans", "node.network.book", "node.network.budget"),
    *("node.network.counters", "node.network.frames", "node.network.handshake"),
    *("node.network.link", "node.network.peers", "node.network.quiet", "node.network.settings"),
    *("node.network.slots", "node.network.targets", "node.network.upkeep"),
    *("node.network.votes_filter",),
    *("node.verification.batch", "node.verification.columns", "node.verification.messages"),
    *("tools.monitor.conveyor", "tools.monitor.document", "tools.monitor.figures"),
    *("tools.monitor.frame", "tools.monitor.ink", "tools.monitor.keys", "tools.monitor.memory"),
    *("tools.monitor.observed", "tools.monitor.panes", "tools.monitor.rates", "tools.monitor.view"),
]
PERFORMING = {
    *("asyncio", "mmap", "multiprocess", "multiprocessing", "os", "random", "rocksdict", "secrets"),
    *("select", "selectors", "shutil", "signal", "socket", "ssl", "structlog", "subprocess"),
    *("tempfile", "threading", "time", "zmq"),
}
PERFORMING_CALLS = {"open", "print", "input"}

# What the process with the sockets must never load, nor anything below it.
CRYPTOGRAPHY = (
    *("cryptography", "nacl"),
    *("node.keys", "node.signer", "node.stages.sign", "node.stages.verify", "node.verification"),
)
WITHOUT_CRYPTOGRAPHY = "node.stages.net"

# The node's vocabulary, which pipeline/ must not know. In these two it is the verb.
COIN_WORDS = re.compile(
    r"tx|txs|txid|txids|transactions?|blocks?|signatures?|outpoints?|utxos?|mempool|coins?|wallets?|"
    r"ledger|genesis|witness|witnesses|validators?|consensus|payments?|nacl|ed25519"
)
VERBS = {"BLOCK", "SIG_BLOCK"}

NAMES_FOR_NOTHING = re.compile(r"utils?|helpers?|common|misc|managers?")
PACKAGES = tuple(MAY_IMPORT)


def module_name(path: Path) -> str:
    """The dotted name of a file below the root."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree without those that only a type checker reads."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from executed(other)
        else:
            yield from executed(child)


def imports(nodes: Iterator[ast.AST], module: str, is_package: bool) -> set[str]:
    """Dotted names that the nodes import; of ``from a import b`` both a and a.b."""
    found: set[str] = set()
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found.add(origin)
            found.update(f"{origin}.{alias.name}" for alias in node.names)
    return found


@cache
def imports_of(module: str, *, with_types: bool) -> set[str]:
    nodes = ast.walk(tree(module)) if with_types else executed(tree(module))
    return imports(nodes, module, MODULES[module].name == "__init__.py")


def reached_from(module: str) -> dict[str, str]:
    """Everything that importing a module may load -> the first-party module that imports it.

    Imports inside of functions count, and so do the packages above each first-party module.
    """
    reached: dict[str, str] = {}
    waiting = [module]
    seen = {module}
    while waiting:
        at = waiting.pop()
        for name in imports_of(at, with_types=False):
            reached.setdefault(name, at)
            parents = name.split(".")
            for length in range(1, len(parents) + 1):
                ancestor = ".".join(parents[:length])
                if ancestor in MODULES and ancestor not in seen:
                    seen.add(ancestor)
                    waiting.append(ancestor)
    return reached


def identifiers(module: ast.Module) -> Iterator[tuple[str, int]]:
    """Every name that code defines or uses, with its line; not the words of strings."""
    for node in ast.walk(module):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name, line
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, line
            case ast.ClassDef(name=name):
                yield name, line
            case ast.keyword(arg=str(name)):
                yield name, node.value.lineno
            case ast.alias(name=name, asname=asname):
                yield asname or name, line
            case _:
                pass


def coin_words(module: ast.Module) -> list[str]:
    return [
        f"line {line}: {name}"
        for name, line in identifiers(module)
        if name not in VERBS
        for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])", name)
        if COIN_WORDS.fullmatch(word.lower())
    ]


def pure_modules(pattern: str) -> list[str]:
    if pattern.endswith(".*"):
        return [name for name in MODULES if name.startswith(pattern[:-1])]
    return [pattern] if pattern in MODULES else []


def performs(module: str) -> list[str]:
    """What of the outside world a module touches, itself or through first-party modules."""
    found = [
        f"{name} (imported by {by})"
        for name, by in reached_from(module).items()
        if name.split(".")[0] in PERFORMING
    ]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found += [f"{node.func.id}()"] if node.func.id in PERFORMING_CALLS else []
    return found


def test_the_scanner_sees_what_it_must() -> None:
    source = ast.parse(
        "import a.b\n"
        "from c import d\n"
        "from ..e import f\n"
        "if TYPE_CHECKING:\n    import g\nelse:\n    import h\n"
        "def later():\n    import i\n"
    )
    base = {"a.b", "c", "c.d", "x.e", "x.e.f", "h", "i"}
    assert imports(executed(source), "x.y.z", is_package=False) == base
    assert imports(ast.walk(source), "x.y.z", is_package=False) == base | {"g"}
    assert imports(ast.walk(source), "x.y", is_package=True) == base | {"g"}
    assert coin_words(ast.parse("def f(maxTxBytes, x): y.block_id = BLOCK; TXID = blocking")) == [
        "line 1: maxTxBytes",
        "line 1: block_id",
        "line 1: TXID",
    ]
    assert len(MODULES) > 20
    assert "zmq" in {name.split(".")[0] for name in reached_from("pipeline.stage")}


@pytest.mark.parametrize("module", MODULES)
def test_imports_flow_from_tools_to_node_to_pipeline(module: str) -> None:
    imported = {name.split(".")[0] for name in imports_of(module, with_types=True)}
    assert imported & set(PACKAGES) <= MAY_IMPORT[module.split(".")[0]]


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] == "pipeline"])
def test_the_pipeline_does_not_speak_of_coins(module: str) -> None:
    assert coin_words(tree(module)) == []


@pytest.mark.parametrize("pattern", PURE)
def test_pure_modules_touch_nothing(pattern: str) -> None:
    modules = pure_modules(pattern)
    assert modules, f"no module is called {pattern}"
    assert {module: found for module in modules if (found := performs(module))} == {}


def cryptography(module: str) -> dict[str, str]:
    """What of the forbidden a module loads -> who imports it."""
    return {
        name: by
        for name, by in reached_from(module).items()
        if any(name == each or name.startswith(each + ".") for each in CRYPTOGRAPHY)
    }


def test_the_process_with_the_sockets_loads_no_cryptography() -> None:
    assert cryptography(WITHOUT_CRYPTOGRAPHY) == {}


@pytest.mark.parametrize(
    ("stage", "loaded"),
    [
        ("node.stages.verify", {"nacl", "node.verification.batch"}),
        ("node.stages.sign", {"nacl", "node.keys", "node.signer"}),
    ],
)
def test_that_test_sees_the_cryptography_of_others(stage: str, loaded: set[str]) -> None:
    found = cryptography(stage)
    assert {each for each in loaded if any(name.startswith(each) for name in found)} == loaded


def test_the_parent_of_all_processes_loads_no_arrays() -> None:
    """They would cost it 10 MB, and every start 80 ms."""
    look = "import sys, {}; print('numpy' in sys.modules)"
    for module, loads in (("node.stages.net", "True"), ("node.commands.run", "False")):
        command = [sys.executable, "-c", look.format(module)]
        assert subprocess.check_output(command, text=True, cwd=ROOT).strip() == loads


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is(module: str) -> None:
    docstring = ast.get_docstring(tree(module))
    assert docstring, "a module begins with a paragraph: where data comes from, where it goes"
    assert len(docstring.split()) >= 4


def test_modules_are_named_for_what_they_hold() -> None:
    nameless = [
        name for name in MODULES if any(NAMES_FOR_NOTHING.fullmatch(p) for p in name.split("."))
    ]
    assert nameless == []


def written_by_us() -> Iterator[Path]:
    """Source, documents and settings; not data, caches or environments."""
    suffixes = {".py", ".md", ".toml", ".txt", ".service", ".conf", ".cfg", ""}
    for top in (*PACKAGES, "tests", "systemd", ".ci"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.is_file() and path.suffix in suffixes and "__pycache__" not in path.parts:
                yield path
    for path in sorted(ROOT.glob("*")):
        if path.is_file() and path.suffix in suffixes and path.name not in (".git", ".coverage"):
            yield path


def test_nothing_names_the_machine_that_it_was_written_on() -> None:
    places = "|".join(("work", "root", "tmp/w", "home/[a-z]"))
    machine_path = re.compile(rf"(?<![\w.])/(?:{places})(?:/|\b)")
    assert machine_path.search("see /" + "work/x")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in written_by_us()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if machine_path.search(line)
    ]
    assert found == []


def test_the_version_is_that_of_the_package() -> None:
    assert version("timed") == __version__
