"""Merge methods; torch only. A file here exports METHOD, and adding the file adds the method."""
