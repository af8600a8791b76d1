"""The search that users get against a scan of all vectors: ``cbmir evaluate recall``."""
