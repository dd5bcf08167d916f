"""A reader of .ply files, ASCII and binary of both byte orders, for untrusted files.

Our own: trimesh refuses binary faces of several lengths and drops colors that are not called red, green and blue;
plyfile, which reads all of it, is under the GPL; meshio knows neither texture coordinates nor strips. Here every input
ends in a `Scene` or in an `ObjectError`, and what is not drawn in a warning. Read: polygons, triangle strips, normals,
vertex and face colors under all their names, texture coordinates of vertices and of faces with MeshLab's TextureFile.
"""
