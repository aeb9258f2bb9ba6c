"""Draw docs/architecture.svg: the folders of the four packages, and which imports which.

`python -m docs.draw_architecture` (or `make architecture`) reads the rows from the import contracts
in pyproject.toml and the arrows from the imports in the sources. An arrow that follows from others
is left out, as is an import that points upwards: `make imports` refuses those.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"

PACKAGES = {
    "fpet_export": "from a checkpoint to a checked graph; the command line (torch, onnx)",
    "benchmarks": "measure engines (numpy)",
    "calibration": "write a precision into a graph (numpy, onnx)",
    "engines": "build, open and compare artefacts; runs on a board (numpy)",
}
_FLOORS = (("fpet_export",), ("benchmarks", "calibration"), ("engines",))

# Pixels.
_WIDTH, _MARGIN, _FLOOR_GAP = 900, 10, 34
_ROW, _BOX, _GAP, _HEAD = 44, 26, 16, 34
_LETTER, _LINE = 7.8, 20

_STYLE = """<style>
:root { --ink: #1f2328; --muted: #57606a; --line: #8c959f; --frame: #f6f8fa; --box: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --muted: #9198a1; --line: #6e7681; --frame: #151b23; --box: #0d1117; }
}
text { font: 14px system-ui, "DejaVu Sans", sans-serif; fill: var(--ink); }
.name { font-weight: 600; font-size: 16px; }
.says { fill: var(--muted); font-size: 13px; }
.frame { fill: var(--frame); stroke: var(--line); }
.folder { fill: var(--box); stroke: var(--ink); }
.files { fill: var(--box); stroke: var(--line); stroke-dasharray: 3 3; }
.arrow { fill: none; stroke: var(--line); stroke-width: 1.5; marker-end: url(#head); }
#head path { fill: var(--line); }
</style>
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"
 orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>"""

Arrows = Mapping[str, Collection[str]]


@dataclasses.dataclass(frozen=True)
class Box:
    """A folder, or the modules of one layer; without a text, where a long arrow passes a row."""

    name: str
    text: str = ""
    is_folder: bool = False

    @property
    def width(self) -> float:
        """Its width in pixels."""
        return len(self.text) * _LETTER + 18 if self.text else 8.0


def layers(settings: str, package: str) -> list[list[str]]:
    """Return the layers of a package's import contract, highest first; [] without a contract.

    Args:
        settings: The text of pyproject.toml.
        package: The container of the contract.
    """
    found = re.search(rf'containers = \["{package}"\]\s*layers = \[(.*?)\]', settings, re.DOTALL)
    rows = re.findall(r'"([^"]+)"', found[1]) if found else []
    return [[name.strip() for name in row.split("|")] for row in rows]


def without_implied(arrows: Arrows) -> dict[str, list[str]]:
    """Return the arrows that do not follow from others; `arrows` must have no circle."""

    def reached(starts: Iterable[str]) -> set[str]:
        seen: set[str] = set()
        waiting = list(starts)
        while waiting:
            if (one := waiting.pop()) not in seen:
                seen.add(one)
                waiting += arrows.get(one, ())
        return seen

    def is_implied(start: str, end: str) -> bool:
        return end in reached(other for other in arrows[start] if other != end)

    return {
        start: [end for end in sorted(ends) if not is_implied(start, end)]
        for start, ends in sorted(arrows.items())
    }


def draw() -> str:
    """Return the picture as an SVG file."""
    settings = (ROOT / "pyproject.toml").read_text("utf-8")
    first, *others = PACKAGES
    graph = grimp.build_graph(first, *others, exclude_type_checking_imports=True, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    of_packages = without_implied(_between(imports, {name: name for name in PACKAGES}))
    parts: list[str] = []
    centres: dict[str, float] = {}
    top = float(_MARGIN)
    for floor in _FLOORS:
        width = (_WIDTH - _MARGIN * (len(floor) + 1)) / len(floor)
        rows = {package: layers(settings, package) for package in floor}
        height = _HEAD + _ROW * max(len(one) for one in rows.values())
        for column, package in enumerate(floor):
            left = _MARGIN + column * (width + _MARGIN)
            parts += _frame(package, left, top, width, height)
            centres[package] = left + width / 2
            if rows[package]:
                parts += _rooms(package, rows[package], imports, left, top + _HEAD, width)
            else:
                parts += _list(package, left, top + _HEAD, width)
        parts += [
            _arrow([(x, top - _FLOOR_GAP), (x, top)])
            for x in _crossings(of_packages, centres, floor)
        ]
        top += height + _FLOOR_GAP
    bottom = top - _FLOOR_GAP + _MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom:.0f}" '
        f'width="{_WIDTH}" height="{bottom:.0f}" role="img">'
        "<title>Folders of the four packages, and which imports which</title>"
    )
    return "\n".join([head, _STYLE, *parts, "</svg>"]) + "\n"


def _crossings(arrows: Arrows, centres: Mapping[str, float], floor: Sequence[str]) -> list[float]:
    """Return where arrows enter a floor: at the middle of the narrower of the two packages."""
    whole = {package for row in _FLOORS if len(row) == 1 for package in row}
    return sorted(
        centres[min(start, end, key=lambda package: package in whole)]
        for start, ends in arrows.items()
        for end in ends
        if end in floor
    )


def _between(imports: Arrows, rooms: Mapping[str, str]) -> dict[str, set[str]]:
    """Return which room imports which; a room is found by the longest name that begins a module's.

    Args:
        imports: Module -> modules.
        rooms: Beginning of a module's name -> room.
    """

    def room(module: str) -> str | None:
        names = module.split(".")
        beginnings = (".".join(names[:count]) for count in range(len(names), 0, -1))
        return next((rooms[one] for one in beginnings if one in rooms), None)

    found: dict[str, set[str]] = {name: set() for name in rooms.values()}
    for module, imported in imports.items():
        if (start := room(module)) is not None:
            ends = {room(one) for one in imported} - {None, start}
            found[start] |= {end for end in ends if end is not None}
    return found


def _frame(package: str, left: float, top: float, width: float, height: float) -> list[str]:
    says = f'<tspan class="says" dx="10">{PACKAGES[package]}</tspan>'
    return [
        f'<rect class="frame" x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" rx="6"/>',
        f'<text x="{left + 12:.0f}" y="{top + 22:.0f}"><tspan class="name">{package}/</tspan>'
        f"{says}</text>",
    ]


def _list(package: str, left: float, top: float, width: float) -> list[str]:
    """Draw what a package without a contract holds: its folders, then its modules as text."""
    folder = ROOT / package
    parts: list[str] = []
    folders = sorted(path.parent.name for path in folder.glob("*/__init__.py"))
    for place, name in enumerate(folders):
        box = Box(name, f"{name}/", is_folder=True)
        parts += _box(box, left + 12 + place * (box.width + _GAP) + box.width / 2, top + _ROW / 2)
    modules = sorted(path.stem for path in folder.glob("[!_]*.py"))
    lines = textwrap.wrap(" · ".join(modules), int((width - 24) / _LETTER))
    below = top + (_ROW + 18 if folders else 18)
    parts += [
        f'<text class="says" x="{left + 12:.0f}" y="{below + _LINE * place:.0f}">{line}</text>'
        for place, line in enumerate(lines)
    ]
    return parts


def _rooms(
    package: str,
    rows: Sequence[Sequence[str]],
    imports: Arrows,
    left: float,
    top: float,
    width: float,
) -> list[str]:
    """Draw the rows of a package's contract, and the arrows between them."""
    boxes: list[list[Box]] = []
    rooms: dict[str, str] = {}
    level: dict[str, int] = {}
    for index, row in enumerate(rows):
        folders = [name for name in row if (ROOT / package / name).is_dir()]
        modules = [name for name in row if name not in folders]
        rooms |= {f"{package}.{name}": name for name in folders}
        boxes.append([Box(name, f"{name}/", is_folder=True) for name in folders])
        if modules:
            text = " · ".join(modules)
            rooms |= {f"{package}.{name}": text for name in modules}
            boxes[-1].append(Box(text, text))
        level |= {box.name: index for box in boxes[-1]}
    down = {
        start: [end for end in ends if level[end] > level[start]]
        for start, ends in _between(imports, rooms).items()
    }
    paths = _paths(boxes, without_implied(down), level)
    _untangle(boxes, paths)
    parts: list[str] = []
    points: dict[str, tuple[float, float]] = {}
    for index, drawn in enumerate(boxes):
        x = left + (width - sum(box.width for box in drawn) - _GAP * (len(drawn) - 1)) / 2
        y = top + index * _ROW + _BOX / 2
        for box in drawn:
            points[box.name] = (x + box.width / 2, y)
            x += box.width + _GAP
            if box.text:
                parts += _box(box, *points[box.name])
    half = _BOX / 2
    for path in paths:
        (x, y), *between, (x_end, y_end) = (points[name] for name in path)
        through = [one for x_, y_ in between for one in ((x_, y_ - half), (x_, y_ + half))]
        parts.append(_arrow([(x, y + half), *through, (x_end, y_end - half)]))
    return parts


def _paths(boxes: list[list[Box]], arrows: Arrows, level: Mapping[str, int]) -> list[list[str]]:
    """Return every arrow as the boxes it passes; rows that it passes get an empty box for it."""
    paths: list[list[str]] = []
    for start, ends in arrows.items():
        for end in ends:
            between = range(level[start] + 1, level[end])
            passed = [Box(f"{start} > {end} {row}") for row in between]
            for row, box in zip(between, passed, strict=True):
                boxes[row].append(box)
            paths.append([start, *(box.name for box in passed), end])
    return paths


def _untangle(boxes: list[list[Box]], paths: Iterable[Sequence[str]]) -> None:
    """Order each row by where its neighbours are, downwards and upwards in turn."""
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for path in paths:
        for one, other in itertools.pairwise(path):
            above.setdefault(other, []).append(one)
            below.setdefault(one, []).append(other)
    for _ in range(6):
        for neighbours, rows in ((above, boxes[1:]), (below, boxes[-2::-1])):
            spot = _spots(boxes)
            for row in rows:
                row.sort(key=lambda box: _middle(box, neighbours, spot))
                spot |= _spots([row])


def _spots(boxes: Iterable[Sequence[Box]]) -> dict[str, float]:
    """Return where each box is in its row, -1 to 1."""
    return {
        box.name: (2 * place + 1) / len(row) - 1 for row in boxes for place, box in enumerate(row)
    }


def _middle(box: Box, neighbours: Arrows, spot: Mapping[str, float]) -> float:
    near = [spot[name] for name in neighbours.get(box.name, ())]
    return round(sum(near) / len(near) if near else spot[box.name], 6)


def _box(box: Box, x: float, y: float) -> list[str]:
    kind = "folder" if box.is_folder else "files"
    return [
        f'<rect class="{kind}" x="{x - box.width / 2:.0f}" y="{y - _BOX / 2:.0f}" '
        f'width="{box.width:.0f}" height="{_BOX}" rx="4"/>',
        f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle">{box.text}</text>',
    ]


def _arrow(points: Sequence[tuple[float, float]]) -> str:
    """Draw an arrow through points, bent so that it leaves and arrives upright."""
    (x, y), *others = points
    path = [f"M{x:.0f} {y:.0f}"]
    for x_next, y_next in others:
        bend = (y + y_next) / 2
        path.append(f"C{x:.0f} {bend:.0f} {x_next:.0f} {bend:.0f} {x_next:.0f} {y_next:.0f}")
        x, y = x_next, y_next
    return f'<path class="arrow" d="{" ".join(path)}"/>'


if __name__ == "__main__":
    PICTURE.write_text(draw(), "utf-8")
