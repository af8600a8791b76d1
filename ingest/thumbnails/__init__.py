"""Small pictures of the stored images, for pages that show them by URL, such as the Qdrant Web UI."""
