"""Card of the floor, which needs no weights."""

from cbmir.encoders.base import EncoderSpec

SIDE_PX = 32

SPECS = (
    EncoderSpec(
        name="pixels",
        architecture="grey values",
        source="none",
        licence="none needed",
        trained_on="nothing",
        pooling="none",
        dim=SIDE_PX**2,
        input_px=SIDE_PX,
    ),
)
