"""An environment of some packages and what these require: nothing else that is installed can be imported.

`python bare_machine.py FOLDER` writes a `sitecustomize.py` into FOLDER; with FOLDER in PYTHONPATH every interpreter, also
those that it starts, refuses the rest as if it were not there.
"""

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "pyarrow", "einops", "jaxtyping", "safetensors", "pillow", "pyyaml")


def hide_the_rest() -> None:
    """Refuse to import what belongs to other packages."""
    there = _required(PACKAGES)
    homes = metadata.packages_distributions().items()
    hidden = {name for name, owners in homes if not there & {_plain(owner) for owner in owners}}
    sys.meta_path[:] = [_Without(finder, hidden - {"sar3d", "pipelines", "benchmarks"}) for finder in sys.meta_path]


class _Without:
    """A finder that does not find some names, for those who import them and for those who ask whether they are there."""

    def __init__(self, finder: Any, hidden: set[str]) -> None:
        self.finder, self.hidden = finder, hidden

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.split(".")[0] in self.hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _required(names: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = _plain(todo.pop())
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another system or interpreter
            continue
        if name not in found:
            found.add(name)
            todo += [re.match(r"[\w.-]+", need)[0] for need in needs if "extra ==" not in need]  # type: ignore[index]
    return found


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    Path(sys.argv[1], "sitecustomize.py").write_text(
        f"import sys\nsys.path.append({str(here)!r})\nimport bare_machine\nbare_machine.hide_the_rest()\n"
    )
