"""A reader of Wavefront .obj files and their .mtl libraries, for untrusted files.

Our own rather than trimesh's or tinyobjloader's. trimesh cuts polygons as fans, counts relative indices from the end of
the file and takes one library; tinyobjloader (2.0.0rc13) gets these right but reads a word that is no number, a NaN or a
decimal comma as 0, and hides the options of textures. Here every input ends in a `Scene` or in an `ObjectError`, and
what is mended or not drawn in a warning. Read: polygons with texture coordinates, normals and vertex colors; of
materials the surface color. Not read: lines, points, free-form surfaces, and what materials say about shading.
"""
