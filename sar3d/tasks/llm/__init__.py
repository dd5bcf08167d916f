"""Training and evaluation of SAR3D-LLM."""
