"""Images whose files are gone."""
