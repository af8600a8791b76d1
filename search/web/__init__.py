"""The page for people: one template, styles and scripts, all served from here; nothing is built and nothing is fetched."""
