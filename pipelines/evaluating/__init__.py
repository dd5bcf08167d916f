"""What the stage `evaluate` does: objects to judge by, baselines, numbers of each object, and the table."""
