"""Training and evaluation of the autoregressive transformer."""
