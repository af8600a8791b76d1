"""Figures, pictures and terms of some collections as one page: ``cbmir evaluate report``."""
