"""What makes figures of a collection look better than they are: ``cbmir evaluate audit``."""
