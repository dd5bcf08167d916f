"""Training and evaluation of the mesh decoder."""
