"""Draws docs/house.svg, the wings of the package floor by floor and who imports whom.

The floors come from the table in docs/design.md, the arrows from the syntax trees, so that the
picture can't say anything that the code doesn't. Run it by ``make docs``; `tests/test_floors.py`
compares the picture with what this draws, and holds every import against the table.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parent.parent
FACADE = "puffer_policies"
HOUSE = ROOT / FACADE
DESIGN = ROOT / "docs" / "design.md"
PICTURE = ROOT / "docs" / "house.svg"

ROW = re.compile(r"^\| (?P<floor>\d+) \| (?P<modules>.+) \| (?P<outside>.+) \|$", re.MULTILINE)
BANS: Mapping[str, frozenset[str]] = {
    "neither torch nor NumPy nor gymnasium": frozenset({"torch", "numpy", "gymnasium"}),
    "no torch": frozenset({"torch"}),
    "torch": frozenset(),
}
"""What the modules of a floor may not import, by the words of the table in docs/design.md."""


@dataclass(frozen=True, slots=True)
class Floor:
    """One row of the table of floors."""

    number: int
    places: tuple[str, ...]
    """Modules and folders, without the name of the package."""
    banned: frozenset[str]
    """Packages that none of them imports."""


def read_floors() -> list[Floor]:
    """Return the floors of docs/design.md, the lowest first."""
    rows = ROW.finditer(DESIGN.read_text(encoding="utf-8"))
    return [
        Floor(
            int(row["floor"]),
            tuple(re.findall(r"`([\w.]+)`", row["modules"])),
            BANS[row["outside"]],
        )
        for row in rows
    ]


def read_modules() -> dict[str, ast.Module]:
    """Return the syntax tree of every module of the package, by its dotted name."""
    return {
        _module_name(path): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(HOUSE.rglob("*.py"))
    }


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


@cache
def imports_of(tree: ast.AST) -> frozenset[str]:
    """Return the modules that a syntax tree imports, leaving out those for type checkers."""
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    modules: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= {name for name in submodules if _is_module(name)} or {str(node.module)}
    return frozenset(modules)


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return name.startswith(FACADE) and (path.with_suffix(".py").exists() or path.is_dir())


def place_of(module: str, places: Set[str]) -> str:
    """Return the row entry that a module belongs to: its own, or that of its nearest folder."""
    place = module.partition(".")[2] or "__init__"
    while place not in places:
        place = place.rpartition(".")[0]
        assert place, f"{module} has no floor in {DESIGN}"
    return place


# -- the picture ---------------------------------------------------------------------------------

WIDTH, ROW_HEIGHT, BOX_HEIGHT, MARGIN, GAP = 1240, 92, 56, 56, 14
STYLE = """\
text { font-family: system-ui, sans-serif; fill: #1b2733; }
.name { font-size: 14px; font-weight: 600; } .role { font-size: 10.5px; fill: #51606e; }
.floor { font-size: 12px; fill: #8794a1; } line { stroke: #9db2c4; stroke-width: 1.1; }
rect { rx: 6; stroke: #9db2c4; } .light { fill: #eef6ec; } .numpy { fill: #fdf6e3; }
.torch { fill: #eef2fb; }"""
SHADES = {3: "light", 1: "numpy", 0: "torch"}
"""The fill of a box by how many heavy packages its floor does without."""


@dataclass(frozen=True, slots=True)
class Box:
    """A wing, or the loose modules of a floor, at its place in the picture."""

    places: tuple[str, ...]
    role: str
    x: float
    y: float
    width: float
    shade: str


def draw(floors: list[Floor], modules: Mapping[str, ast.Module]) -> str:
    """Return the picture as SVG."""
    boxes = [box for floor in floors for box in _boxes(floor, modules, len(floors))]
    box_of = {place: number for number, box in enumerate(boxes) for place in box.places}
    arrows = _reduced(_arrows(modules, box_of))
    height = len(floors) * ROW_HEIGHT + GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
        f"<title>The wings of {FACADE} and who imports whom</title>",
        f"<style>\n{STYLE}\n</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#9db2c4"/></marker>',
        "</defs>",
        *(_line(boxes[above], boxes[below]) for above, below in sorted(arrows)),
        *(_text_of_box(box) for box in boxes),
        *(
            f'<text class="floor" x="14" y="{_top(floor.number, len(floors)) + 33}">'
            f"{floor.number}</text>"
            for floor in floors
        ),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _boxes(floor: Floor, modules: Mapping[str, ast.Module], count: int) -> Iterator[Box]:
    """Yield a box for each folder of a floor, and one for all its loose modules."""
    wings = [
        (place,) for place in floor.places if f"{FACADE}.{place}" in modules and _is_wing(place)
    ]
    loose = tuple(place for place in floor.places if not _is_wing(place))
    entries = [*wings, *([loose] if loose else [])]
    width = (WIDTH - MARGIN - GAP * len(entries)) / len(entries)
    width = min(width, 400.0)
    indent = (WIDTH - MARGIN - len(entries) * (width + GAP)) / 2
    for column, places in enumerate(entries):
        role = _role(modules[f"{FACADE}.{places[0]}"]) if len(places) == 1 else ""
        x = MARGIN + indent + column * (width + GAP)
        shade = SHADES[len(floor.banned)]
        yield Box(places, role, x, _top(floor.number, count), width, shade)


def _is_wing(place: str) -> bool:
    return (HOUSE / place / "__init__.py").exists()


def _top(floor: int, count: int) -> float:
    """Return the upper edge of a floor's boxes: the highest floor is drawn first."""
    return (count - floor) * ROW_HEIGHT + GAP


def _role(tree: ast.Module) -> str:
    """Return the first line of a docstring, which says what a wing or module is."""
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def _arrows(modules: Mapping[str, ast.Module], box_of: Mapping[str, int]) -> set[tuple[int, int]]:
    places = set(box_of)
    arrows = set()
    for name, tree in modules.items():
        if name == f"{FACADE}.__init__":
            continue  # The facade stands beside the house: it hands out names of every floor.
        above = box_of[place_of(name, places)]
        for other in imports_of(tree):
            if other.split(".")[0] == FACADE and other != FACADE:
                below = box_of[place_of(other, places)]
                if below != above:
                    arrows.add((above, below))
    return arrows


def _reduced(arrows: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Leave out each arrow that a longer way says already: nobody could follow all of them."""
    return {
        (above, below)
        for above, below in arrows
        if not any(
            (above, between) in arrows and _reaches(between, below, arrows)
            for between in {target for _, target in arrows} - {above, below}
        )
    }


def _reaches(start: int, end: int, arrows: set[tuple[int, int]]) -> bool:
    below = {target for source, target in arrows if source == start}
    return end in below or any(_reaches(each, end, arrows) for each in below)


def _line(above: Box, below: Box) -> str:
    if above.y == below.y:  # of one floor: from side to side
        y, leftward = above.y + BOX_HEIGHT / 2, below.x < above.x
        start = above.x if leftward else above.x + above.width
        end = below.x + below.width if leftward else below.x
        return _arrow(start, y, end, y)
    start, end = above.x + above.width / 2, below.x + below.width / 2
    # Pulled towards the other box, so that arrows into a wide box do not meet in one point.
    start += max(-0.35, min(0.35, (end - start) / WIDTH)) * above.width
    end -= max(-0.35, min(0.35, (end - start) / WIDTH)) * below.width
    return _arrow(start, above.y + BOX_HEIGHT, end, below.y)


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}"'
    return f'<line {ends} marker-end="url(#head)"/>'


def _text_of_box(box: Box) -> str:
    name = ", ".join(box.places)
    rows = textwrap.wrap(box.role, int(box.width / 5.9), max_lines=2, placeholder=" ...")
    parts = [
        f'<rect class="{box.shade}" x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" '
        f'height="{BOX_HEIGHT}"/>',
        f'<text class="name" x="{box.x + 10:.0f}" y="{box.y + 19:.0f}">{escape(name)}</text>',
    ]
    parts += [
        f'<text class="role" x="{box.x + 10:.0f}" y="{box.y + 34 + 13 * number:.0f}">'
        f"{escape(row)}</text>"
        for number, row in enumerate(rows)
    ]
    return "\n".join(parts)


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(draw(read_floors(), read_modules()), encoding="utf-8")
    print(f"wrote {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
