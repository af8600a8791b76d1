"""Figures against the size of the gallery: ``cbmir evaluate sweep``."""
