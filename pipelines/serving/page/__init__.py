"""The page of the service: one file, and the viewer of the report. Nothing is fetched from elsewhere."""

import base64
import functools
import hashlib
import re
from importlib import resources


@functools.cache
def html() -> str:
    """The whole page."""
    return resources.files(__name__).joinpath("index.html").read_text(encoding="utf-8")


@functools.cache
def viewer() -> str:
    """The script that defines <model-viewer>, without its source map, which would be a fetch."""
    text = resources.files("pipelines.reporting").joinpath("assets/model-viewer.min.js").read_text(encoding="utf-8")
    return text.rpartition("//# sourceMappingURL=")[0] or text


@functools.cache
def headers() -> dict[str, str]:
    """A content security policy that admits the page's own scripts only, and that no other page may frame it."""
    scripts = re.findall(r"<script>(.*?)</script>", html(), re.DOTALL)
    digests = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    policy = (
        "default-src 'none'; img-src 'self' data: blob:; media-src 'self' blob:; style-src 'unsafe-inline'; "
        f"connect-src 'self' data: blob:; script-src 'self' {digests} 'wasm-unsafe-eval'; worker-src blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {"content-security-policy": policy, "referrer-policy": "no-referrer", "cache-control": "no-cache"}
