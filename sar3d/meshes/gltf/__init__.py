"""A glTF 2.0 reader for untrusted files.

Our own rather than trimesh's, which accepts accessors that end past their buffer, ignores skins and morph weights,
returns zeros for Draco streams when its decoder is missing, and drops what it cannot decode. Here every input ends in a
`Scene` or in an `ObjectError`. Read: geometry in bind pose and the surface color of its materials; not read:
animations, cameras, lights, and what materials say about shading.
"""
