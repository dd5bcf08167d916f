"""Makes the helpers beside the tests importable, in the processes that they start as well."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), *(str(HERE.parents[1] / "sar3d" / "tasks" / name) for name in ("flexicubes", "vqvae"))]
