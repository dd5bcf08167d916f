"""The datasets: formats on disk, loading, and the samples that tasks get."""
