"""One collection against another: ``cbmir evaluate compare``."""
