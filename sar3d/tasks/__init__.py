"""What trains and evaluates the models: losses, samples to batches, metrics and pictures of a run."""
