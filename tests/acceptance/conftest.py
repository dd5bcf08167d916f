"""Makes the helper functions of this folder's modules importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
