"""All analyses of some collections from one file: ``cbmir evaluate run``."""
