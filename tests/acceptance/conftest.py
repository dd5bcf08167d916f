"""Makes the helper functions of this folder's modules importable, and the object store of the pipeline tests available."""

import sys
from pathlib import Path

from object_store import _s3_environment, object_store, s3_requests, s3_root

__all__ = ["_s3_environment", "object_store", "s3_requests", "s3_root"]
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "sar3d")]
