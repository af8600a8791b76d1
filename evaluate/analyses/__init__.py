"""What can be measured: a file or a folder for each analysis."""
