"""Makes the helpers beside the tests importable, in the processes that they start as well."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
