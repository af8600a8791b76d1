"""The shared core of cbmir: data, filters, images, encoders and the store."""

__version__ = "0.1.0"
