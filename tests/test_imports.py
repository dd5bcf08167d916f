"""Imports: modules form no cycle, whether they import at the top or within a function."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def modules() -> dict[str, Path]:
    """Every module of the two packages by its dotted name."""
    files = [file for package in ("sar3d", "pipelines") for file in (REPOSITORY / package).rglob("*.py")]
    return {
        ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): file for file in files
    }


def statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports below a node that are ever carried out, those within functions too.

    `if TYPE_CHECKING:` is never true; `if __name__ == "__main__":`, the last lines of a stage's module, runs the program
    that imports all stages, in a process that imports this module under another name.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and (
            "TYPE_CHECKING" in ast.unparse(child.test) or "__main__" in ast.unparse(child.test)
        ):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        yield from statements(child)


def imported(tree: ast.AST, known: dict[str, Path]) -> set[str]:
    """The modules of the two packages that a module imports. All imports are absolute."""
    found: set[str] = set()
    for statement in statements(tree):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names} & known.keys()
        elif statement.module in known:
            parts = {f"{statement.module}.{alias.name}" for alias in statement.names}
            found |= parts & known.keys()
            # `from package import module` needs the package's own names only where it takes one of them.
            if parts - known.keys():
                found.add(statement.module)
    return found


def test_modules_form_no_cycle_deferred_imports_counted_too() -> None:
    known = modules()
    graph = {
        name: imported(ast.parse(file.read_text(encoding="utf-8")), known) - {name} for name, file in known.items()
    }
    assert sum(map(len, graph.values())) > 1000, "the imports have been found"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" imports ".join(reversed(error.args[1]))) from error
