"""The floors of the house: docs/design.md says who may import whom, the syntax trees who does."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import puffer_policies

HOUSE = Path(puffer_policies.__file__).parent
FACADE = "puffer_policies"
DESIGN = Path(__file__).parents[1] / "docs" / "design.md"

ROW = re.compile(r"^\| (?P<floor>\d+) \| (?P<modules>.+) \| (?P<outside>.+) \|$", re.MULTILINE)
BANS = {
    "neither torch nor NumPy nor gymnasium": {"torch", "numpy", "gymnasium"},
    "no torch": {"torch"},
    "torch": set(),
}
"""What modules of a floor may not import, by the words of the table in docs/design.md."""


def read_floors() -> tuple[dict[str, int], dict[int, set[str]]]:
    """Return the floor of each module or folder, and what each floor may not import."""
    floors, bans = {}, {}
    for row in ROW.finditer(DESIGN.read_text(encoding="utf-8")):
        number = int(row["floor"])
        floors |= dict.fromkeys(re.findall(r"`([\w.]+)`", row["modules"]), number)
        bans[number] = BANS[row["outside"]]
    return floors, bans


FLOORS, BANNED = read_floors()

FILES = sorted(HOUSE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(HOUSE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def floor(module: str) -> int:
    """Return a module's floor: its own, or that of the folder that it stands in."""
    place = module.partition(".")[2] or "__init__"
    while place not in FLOORS:
        place = place.rpartition(".")[0]
    return FLOORS[place]


def imports(tree: ast.AST) -> set[str]:
    """Return the modules that a syntax tree imports, those for type checkers left out."""
    found = set()
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in inside if is_module(name)}
            found |= modules or {str(node.module)}
    return found


def opened(tree: ast.Module) -> set[str | None]:
    """What stands after each ``from``."""
    return {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def is_module(name: str) -> bool:
    place = HOUSE.parent.joinpath(*name.split("."))
    return name.startswith(FACADE) and (place.with_suffix(".py").exists() or place.is_dir())


def ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.split(".")[0] == FACADE}


@pytest.fixture(scope="module")
def house() -> dict[str, ast.Module]:
    return {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


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
        if floor(other) > floor(name)
    ]
    assert climbing == []


def test_nobody_inside_imports_the_facade(house):
    guests = [name for name, tree in house.items() if FACADE in imports(tree)]
    assert guests == []
    # By a submodule's name, too: that runs the facade first all the same, and hides what is used.
    assert [name for name, tree in house.items() if FACADE in opened(tree)] == []


def test_imports_have_no_circle(house):
    edges = {name: ours(imports(tree)) & set(house) - {name} for name, tree in house.items()}
    while leaves := [name for name, below in edges.items() if not below]:
        for leaf in leaves:
            del edges[leaf]
        for below in edges.values():
            below.difference_update(leaves)
    assert edges == {}


def test_no_function_imports_a_module_of_ours(house):
    late = [
        f"{name}:{node.lineno}"
        for name, tree in house.items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
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
        if other.split(".")[0] in BANNED[floor(name)]
    ]
    assert heavy == []


def test_listing_names_leaves_torch_numpy_and_gymnasium_alone():
    code = (
        "import sys, puffer_policies.registry as discovery\n"
        "assert 'Default' in discovery.list_policies()\n"
        "discovery.default_registry().explain('Defualt')\n"
        "print(sorted({'torch', 'numpy', 'gymnasium'} & set(sys.modules)))"
    )
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "[]"
    assert told.stderr == ""


def forwards(tree: ast.Module) -> list[str]:
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name in ("forward", "forward_eval")
    ]


def test_a_zoo_policy_is_a_constructor(house):
    assert [name for name, tree in house.items() if ".zoo" in name and forwards(tree)] == []


def test_forward_of_a_policy_is_written_once(house):
    """Parts of a policy are modules with a forward of their own; only policies have both."""
    homes = {"puffer_policies.nn.actor_critic", "puffer_policies.wrappers.base"}
    homes.add("puffer_policies.wrappers.separate_critic")  # runs two policies, and joins them
    interfaces = {"puffer_policies.contract"}
    writers = {name for name, tree in house.items() if "forward_eval" in forwards(tree)}
    assert writers - interfaces <= homes
    parts = {f"puffer_policies.nn.{part}" for part in ("images", "encoders", "heads", "features")}
    parts |= {name for name in house if name.startswith("puffer_policies.nn.cores.")}
    parts |= {f"puffer_policies.nn.{part}" for part in ("embedding", "multi_input", "sets")}
    parts.add("puffer_policies.wrappers.frame_stack")  # gives the base's values a memory's form
    parts.add(
        "puffer_policies.checks.promises.portable"
    )  # what is exported is a module around a policy
    writers = {name for name, tree in house.items() if forwards(tree)}
    assert writers - interfaces - parts <= homes
