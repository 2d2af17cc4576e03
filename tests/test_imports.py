# SPDX-License-Identifier: BSD-3-Clause
"""The package is a staircase: each part imports those before it, wherever in a file the import stands."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "hpcalloc"

# What may be imported: parts of earlier lines, and the own part.
STAIRS = (
    ("exceptions", "_text"),
    ("_words",),
    ("policy",),
    ("_native",),
    ("discover",),
    ("plan",),
    ("bind",),
    ("memory",),
    ("shared",),
    ("report",),
    ("opening",),
    ("context",),
    ("doctor", "bench"),
    ("cli",),
    ("__init__", "__main__"),
)
LEVEL = {part: level for level, parts in enumerate(STAIRS) for part in parts}
# Modules in sys.modules that are looked up because they are imported only if the program does so itself.
FOREIGN = {"mpi4py.MPI", "numba", "pyhwloc"}


def part_of(module):
    """The part that a module of the package is in."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(tree, module, is_package):
    """Modules of this package that a file imports, in functions too, with the line; types' imports too."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (
                (alias.name, node.lineno) for alias in node.names if alias.name.startswith("hpcalloc")
            )
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            if source == "hpcalloc":
                yield from ((f"hpcalloc.{alias.name}", node.lineno) for alias in node.names)
            elif source.startswith("hpcalloc."):
                yield source, node.lineno


def faults(module, text, is_package=False):
    """What a file imports from above, or has from sys.modules."""
    tree = ast.parse(text)
    own = part_of(module)
    found = []
    for target, line in imports_of(tree, module, is_package):
        other = part_of(target)
        if other != own and LEVEL.get(other, LEVEL["__init__"]) >= LEVEL[own]:
            found.append(f"{module}:{line} imports {target}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "modules" and ast.unparse(node.value) == "sys":
            use = next(
                (
                    n
                    for n in ast.walk(tree)
                    if isinstance(n, ast.Call) and n.func and node in ast.walk(n.func)
                ),
                None,
            )
            name = use.args[0].value if use and use.args and isinstance(use.args[0], ast.Constant) else None
            test = next(
                (n for n in ast.walk(tree) if isinstance(n, ast.Compare) and node in n.comparators), None
            )
            if test is not None and isinstance(test.left, ast.Constant):
                name = test.left.value
            if name not in FOREIGN:
                found.append(f"{module}:{node.lineno} looks into sys.modules for {name}")
    return found


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        names = path.relative_to(ROOT.parent).with_suffix("").parts
        is_package = names[-1] == "__init__"
        module = ".".join(names[:-1] if is_package else names)
        if path.name == "build_cffi.py":
            continue
        yield module, path, is_package


@pytest.mark.parametrize(("module", "path", "is_package"), [pytest.param(*m, id=m[0]) for m in modules()])
def test_imports_go_one_way(module, path, is_package):
    assert faults(module, path.read_text(), is_package) == []


def test_no_file_is_too_long():
    """More than 600 lines have more than one concept; those that still have are named."""
    long = {module: len(path.read_text().splitlines()) for module, path, _ in modules()}
    assert {module for module, lines in long.items() if lines > 600} <= {"hpcalloc.memory.arrays"}


def test_every_part_has_its_place():
    assert {part_of(module) for module, _, _ in modules()} == set(LEVEL)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("hpcalloc.plan.ranks", "from ..bind import rank"),
        ("hpcalloc.plan.ranks", "def f():\n    from ..context import current"),
        ("hpcalloc.report.files", "import hpcalloc.context"),
        ("hpcalloc.report.files", "from hpcalloc import init"),
        ("hpcalloc.policy", "from . import memory"),
        ("hpcalloc.memory.placement", "import sys\nx = sys.modules.get('hpcalloc.context')"),
        ("hpcalloc.memory.placement", "import sys\nx = sys.modules['hpcalloc.context']"),
        (
            "hpcalloc.bind.rank",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..report import files",
        ),
    ],
)
def test_the_test_can_fail(module, text):
    assert len(faults(module, text)) == 1


def cycles_of(graph):
    """Modules that import themselves by way of others."""
    found, done = [], set()

    def visit(module, trail):
        if module in trail:
            found.append([*trail[trail.index(module) :], module])
        elif module not in done:
            for other in graph.get(module, ()):
                visit(other, [*trail, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return found


def test_no_circles_inside_a_part():
    known = {module: (path, is_package) for module, path, is_package in modules()}
    graph = {}
    for module, (path, is_package) in known.items():
        tree = ast.parse(path.read_text())
        tree.body = [node for node in tree.body if not type_checking(node)]
        targets = set()
        package = module.split(".") if is_package else module.split(".")[:-1]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = ".".join(
                    [*package[: len(package) - node.level + 1], *([node.module] if node.module else [])]
                )
                targets |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        graph[module] = sorted((targets & set(known)) - {module, "hpcalloc"} - ({module.rpartition(".")[0]}))
    assert cycles_of(graph) == []
    assert cycles_of({"a": ["b"], "b": ["a"]}) == [["a", "b", "a"]]
