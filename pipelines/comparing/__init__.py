"""What the stage `compare` does: which file is of which object, and the rows of one object and every system."""
