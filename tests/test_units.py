"""Numbers as people read them."""

import pytest

from cbmir.units import counted, rate, size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        (3000 * 1024**4, "3,000.0 TiB"),
    ],
)
def test_size__in_a_fitting_unit(count, text):
    assert size(count) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 volumes"), (1, "1 volume"), (2, "2 volumes"), (1045, "1,045 volumes")]
)
def test_counted__singular_and_plural(number, text):
    assert counted(number, "volume") == text


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(1, "query", "1 query"), (2, "query", "2 queries"), (0, "class", "0 classes"), (1, "class", "1 class")],
)
def test_counted__other_plurals(number, noun, text):
    assert counted(number, noun) == text


@pytest.mark.parametrize(
    ("number", "seconds", "text"),
    [
        (1045, 5.37, "194.6 images/s"),
        (1, 1.0, "1.0 images/s"),
        (1, 2.0, "30.0 images/min"),
        (3, 3600.0, "3.0 images/h"),
        (1, 0.9, ""),
        (0, 10.0, ""),
    ],
)
def test_rate__that_means_something(number, seconds, text):
    assert rate(number, seconds, "image") == text
