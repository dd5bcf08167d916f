"""What `sar3d caption` does: models that belong together, files that become tokens, and the answers."""
