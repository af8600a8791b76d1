"""Pages of the docs site that are made from the code: commands, Python reference, notebooks."""
