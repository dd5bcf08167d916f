"""SAR3D-LLM: a language model that reads the coarse tokens of an object and describes it."""
