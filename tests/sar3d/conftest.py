"""Makes the helper modules of these folders importable."""

import sys
from pathlib import Path

FOLDERS = (".", "ar", "export", "llm", "raster", "tasks/ar", "tasks/flexicubes", "tasks/vqvae")
sys.path[:0] = [str(Path(__file__).parent / name) for name in FOLDERS]
