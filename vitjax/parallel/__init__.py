"""Many devices, one program: the mesh, where each array lives on it, and the start of several processes."""
