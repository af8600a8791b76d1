"""What can be measured: a folder an analysis, with its terms, its measurement, its report and its command."""
