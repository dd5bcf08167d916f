"""Training and evaluation of the VQVAE."""
