"""Whole ranges of history: which merges of models are what they say, and what belongs nowhere."""
