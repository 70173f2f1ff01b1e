"""One family, one file: its loss and how it samples."""
