"""Deflate for PNG files: zlib-ng, which the package depends on, or Python's own zlib on a bare machine that only reads and
measures (`benchmarks/gpu.py`).

Both inflate to the same bytes; what they compress differs in bytes, not in pixels.
"""

try:
    from zlib_ng import zlib_ng as deflate
except ImportError:
    import zlib as deflate  # type: ignore[no-redef]

__all__ = ["deflate"]
