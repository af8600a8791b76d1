"""Figures of a ranking: ``cbmir evaluate retrieval``."""
