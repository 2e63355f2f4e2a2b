"""Published data sets of text in several languages, read through ``datasets``."""
