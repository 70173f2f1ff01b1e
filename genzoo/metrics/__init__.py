"""Scores: feature extractors, distances between feature distributions, and the protocol that binds them."""
