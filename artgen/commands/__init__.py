"""One module for each command: config in, exit code out."""
