"""The floors of the house: docs/design.md says who may import whom, the syntax trees who does."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from functools import cache

import pytest
from tool_files import load_tool

from puffer_policies.cli.parser import VERBS

TOOL = load_tool("draw_house")
FACADE = "puffer_policies"
FLOORS = {place: floor.number for floor in TOOL.read_floors() for place in floor.places}
BANNED = {floor.number: floor.banned for floor in TOOL.read_floors()}

imports = TOOL.imports_of


@cache
def nodes(tree: ast.Module) -> list[ast.AST]:
    return list(ast.walk(tree))


def floor_of(module: str) -> int:
    """Return a module's floor: its own, or that of the folder that it stands in."""
    return FLOORS[TOOL.place_of(module, set(FLOORS))]


def packages_imported_from(tree: ast.Module) -> set[str | None]:
    """Return what stands after each ``from``."""
    return {node.module for node in nodes(tree) if isinstance(node, ast.ImportFrom)}


def ours(modules: Iterable[str]) -> set[str]:
    return {name for name in modules if name.split(".")[0] == FACADE}


@pytest.fixture(scope="module")
def house() -> dict[str, ast.Module]:
    return TOOL.read_modules()


def test_every_module_has_a_floor_and_every_row_a_module(house):
    places = {name.partition(".")[2] for name in house}
    folders = {place.partition(".")[0] for place in places}
    assert folders <= set(FLOORS)
    assert set(FLOORS) <= places | folders


def test_a_file_imports_no_higher_floor(house):
    climbing = [
        f"{name} -> {other}"
        for name, tree in house.items()
        for other in ours(imports(tree))
        if floor_of(other) > floor_of(name)
    ]
    assert climbing == []


def test_nobody_inside_imports_the_facade(house):
    # ``from puffer_policies import pufferl`` runs the facade, too, and hides what is used.
    importers = [
        name
        for name, tree in house.items()
        if FACADE in imports(tree) | packages_imported_from(tree)
    ]
    assert importers == []


def test_the_picture_of_the_house_is_the_house(house):
    assert TOOL.PICTURE.read_text(encoding="utf-8") == TOOL.draw(TOOL.read_floors(), house)


def test_imports_have_no_circle(house):
    edges = {name: ours(imports(tree)) & set(house) - {name} for name, tree in house.items()}
    while leaves := [name for name, below in edges.items() if not below]:
        for leaf in leaves:
            del edges[leaf]
        for below in edges.values():
            below.difference_update(leaves)
    assert edges == {}


def may_import_late(module: str, function: str) -> bool:
    """A verb imports what it works with when it runs, so that its ``--help`` needs no torch."""
    package, _, verb = module.rpartition(".")
    return (
        package == "puffer_policies.cli" and verb.replace("_", "-") in VERBS and function == "run"
    )


def test_no_function_imports_a_module_of_ours(house):
    late = [
        f"{name}:{node.lineno}"
        for name, tree in house.items()
        for function in nodes(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        and not may_import_late(name, function.name)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and ours(imports(ast.Module([node], type_ignores=[])))
    ]
    assert late == []


def test_a_floor_imports_nothing_heavier_than_the_table_says(house):
    heavy = [
        f"{name} -> {other}"
        for name, tree in house.items()
        for other in imports(tree)
        if other.split(".")[0] in BANNED[floor_of(name)]
    ]
    assert heavy == []


def test_listing_names_leaves_torch_numpy_and_gymnasium_alone():
    code = (
        "import sys, puffer_policies.registry as discovery\n"
        "assert 'Default' in discovery.list_policies()\n"
        "discovery.default_registry().explain('Defualt')\n"
        "print(sorted({'torch', 'numpy', 'gymnasium'} & set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"
    assert process.stderr == ""


def forwards(tree: ast.Module) -> list[str]:
    return [
        node.name
        for node in nodes(tree)
        if isinstance(node, ast.FunctionDef) and node.name in ("forward", "forward_eval")
    ]


def test_a_zoo_policy_is_a_constructor(house):
    assert [name for name, tree in house.items() if ".zoo" in name and forwards(tree)] == []


def test_forward_of_a_policy_is_written_once(house):
    """Parts of a policy are modules with a forward of their own; only policies have both."""
    homes = {"puffer_policies.nn.actor_critic", "puffer_policies.wrappers.base"}
    homes.add("puffer_policies.wrappers.separate_critic")  # runs two policies, and joins them
    homes.add("puffer_policies.interop.pufferlib")  # PufferLib's own names, by which it asks one
    interfaces = {"puffer_policies.contract"}
    writers = {name for name, tree in house.items() if "forward_eval" in forwards(tree)}
    assert writers - interfaces <= homes
    parts = {f"puffer_policies.nn.{part}" for part in ("images", "encoders", "heads", "features")}
    parts |= {name for name in house if name.startswith("puffer_policies.nn.cores.")}
    parts |= {f"puffer_policies.nn.{part}" for part in ("multi_input", "sets", "value_heads")}
    parts.add("puffer_policies.wrappers.frame_stack")  # gives the base's values a memory's form
    # What is exported is a module around a policy.
    parts.add("puffer_policies.checks.promises.export")
    parts |= {f"puffer_policies.export.{part}" for part in ("graph", "step", "styles")}
    # In a trainer of others it is one of theirs.
    parts |= {name for name in house if name.startswith("puffer_policies.interop.")}
    writers = {name for name, tree in house.items() if forwards(tree)}
    assert writers - interfaces - parts <= homes
