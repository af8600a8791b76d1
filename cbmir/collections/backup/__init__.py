"""Backups of a collection: what makes it, with checksums, to be put back as it was."""
