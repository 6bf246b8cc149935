"""The house stands: imports point down, and nothing imports itself around a corner."""

from __future__ import annotations

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "torchbeast"
FLOORS = {
    **dict.fromkeys(["user_code"], 0),
    **dict.fromkeys(["ops", "data"], 1),
    **dict.fromkeys(["nets", "envs"], 2),
    **dict.fromkeys(["algorithms"], 3),
    **dict.fromkeys(["loops", "tools"], 4),
    **dict.fromkeys(["runners"], 5),
    **dict.fromkeys(["commands", "cli", "presets", "__main__"], 6),
    **dict.fromkeys(["monobeast", "polybeast", "polybeast_env", "polybeast_learner"], 6),
}
UNSEEN = {"algorithms": {"envs"}}  # lower rooms that a room must not know all the same
TOP = 6  # here rooms may import each other


def imports(path: pathlib.Path) -> list[tuple[int, str]]:
    """Returns line and full name of each torchbeast import of a file, also those in functions."""
    found = []
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, [base, node.module or ""]))
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return [(line, name) for line, name in found if name.split(".")[0] == "torchbeast"]


def module_of(name: str, root: pathlib.Path = ROOT) -> str:
    """Returns the module that an imported name lies in."""
    parts = name.split(".")
    while parts:
        path = root.joinpath(*parts)
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            return ".".join(parts)
        parts.pop()
    raise AssertionError(f"no module {name}")


def complaints(room: str, where: str, found: list[tuple[int, str]]) -> list[str]:
    """Returns what is wrong with the imports of one file of ``room``."""
    wrong = []
    for line, name in found:
        target = name.split(".")[1] if "." in name else ""
        if target in ("__version__", "", room):
            continue
        down = FLOORS[target] < FLOORS[room]
        beside = FLOORS[target] == FLOORS[room] == TOP
        behind_the_seam = (
            FLOORS[room] == 4 and target == "envs" and not name.startswith("torchbeast.envs.vector")
        )
        unseen = target in UNSEEN.get(room, ())
        if not (down or beside) or behind_the_seam or unseen:
            short = ".".join(module_of(name).split(".")[1:])
            wrong.append(f"{room} must not import {short} ({where}:{line})")
    return wrong


def files() -> list[pathlib.Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_imports_point_down() -> None:
    wrong = []
    for path in files():
        if path != PACKAGE / "__init__.py":
            assert room_of(path) in FLOORS, f"{path} is on no floor"
            wrong += complaints(room_of(path), str(path.relative_to(ROOT)), imports(path))
    assert not wrong, "\n".join(wrong)


def test_the_rule_sees_what_is_forbidden() -> None:
    for room, name, message in [
        ("algorithms", "torchbeast.envs", "algorithms must not import envs"),
        ("nets", "torchbeast.envs.vector.Step", "nets must not import envs.vector"),
        ("data", "torchbeast.ops.vtrace", "data must not import ops.vtrace"),
        ("loops", "torchbeast.envs.gym.GymEnv", "loops must not import envs.gym"),
        ("tools", "torchbeast.loops.actor", "tools must not import loops.actor"),
        ("runners", "torchbeast.cli", "runners must not import cli"),
    ]:
        assert complaints(room, "a.py", [(12, name)]) == [f"{message} (a.py:12)"]
    assert not complaints("loops", "a.py", [(1, "torchbeast.envs.vector.Episode")])
    assert not complaints("runners", "a.py", [(1, "torchbeast.tools.logs")])


def test_modules_do_not_import_in_circles() -> None:
    graph: dict[str, set[str]] = {}
    for path in files():
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        targets = {module_of(imported) for _, imported in imports(path)}
        # A room's __init__ gathers its files; files that take a neighbour by name are no circle.
        graph[name] = {t for t in targets if t != name and not name.startswith(t + ".")}
    assert find_circle(graph) is None
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]


def find_circle(graph: dict[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for target in sorted(graph.get(name, ())):
            circle = visit(target, [*path, name])
            if circle:
                return circle
        done.add(name)
        return None

    return next(filter(None, (visit(name, []) for name in sorted(graph))), None)
