"""Recognize, from its first bytes, a file that is not what its name says."""

from sar3d.errors import ObjectError

_HTML_STARTS = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<error")


def sniff(head: bytes, suffix: str) -> None:
    """Reject the usual impostors of a download.

    `head` is the first 512 bytes (fewer if the file is shorter), `suffix` the name's, such as ".glb".
    Raises ObjectError: `empty_file`, `git_lfs_pointer`, `html_page`, or `malformed` for a .glb or .gltf that cannot
    be one.
    """
    if not head:
        raise ObjectError("empty_file", "the file is empty")
    if head.startswith(b"version https://git-lfs.github.com/spec"):
        raise ObjectError("git_lfs_pointer", "the file is a git-LFS pointer, not the object it points to")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_HTML_STARTS):
        raise ObjectError("html_page", "the file is an HTML or XML page, such as a server's error message")
    kind = suffix.lower()
    if kind == ".glb" and not head.startswith(b"glTF"):
        raise ObjectError("malformed", f"a GLB begins with 'glTF', this file with {head[:4]!r}")
    if kind == ".gltf" and head.startswith(b"\xef\xbb\xbf"):
        raise ObjectError("malformed", "the JSON begins with a byte-order mark, which glTF forbids")
    if kind == ".gltf" and not head.startswith(b"glTF") and not head.lstrip().startswith(b"{"):
        raise ObjectError("malformed", f"a glTF file begins with a JSON object, this file with {head[:8]!r}")
