"""Classes told by a linear layer on the vectors: ``cbmir evaluate probe``."""
