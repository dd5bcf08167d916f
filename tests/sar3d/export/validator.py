"""The Khronos glTF validator, where node and the package are at hand."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "SAR3D_GLTF_VALIDATOR"
"""A folder in which `npm install gltf-validator` was run."""

_SCRIPT = """
const validator = require("gltf-validator");
const bytes = new Uint8Array(require("fs").readFileSync(process.argv[1]));
validator.validateBytes(bytes).then(report => console.log(JSON.stringify(report.issues)));
"""


def issues(file: Path) -> dict[str, Any]:
    """What the validator says of a file: numErrors, numWarnings, numInfos, numHints, messages. Skips without it."""
    node, modules = shutil.which("node"), _modules()
    if node is None or modules is None:
        pytest.skip(f"no glTF validator: run `npm install --prefix FOLDER gltf-validator` and set {VARIABLE}=FOLDER")
    command = [node, "-e", _SCRIPT, str(file)]
    environment = {**os.environ, "NODE_PATH": str(modules)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _modules() -> Path | None:
    folders = [Path(os.environ[VARIABLE])] if os.environ.get(VARIABLE) else []
    folders += sorted((Path.home() / ".npm" / "_npx").glob("*"))
    places = [folder / "node_modules" for folder in folders]
    return next((place for place in places if (place / "gltf-validator").is_dir()), None)
