"""Samples for training and evaluation: views, tokens and captions."""
