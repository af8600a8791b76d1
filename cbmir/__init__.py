"""The shared core of cbmir: data, filters, images, encoders and the store."""

import os

__version__ = "0.1.0"

os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
"""NumPy's idle threads sleep at once; else they spin for .1 s of CPU when it is imported, a fifth of a search."""
