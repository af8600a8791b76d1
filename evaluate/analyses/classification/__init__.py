"""Classes told by the nearest images: ``cbmir evaluate classify``."""
