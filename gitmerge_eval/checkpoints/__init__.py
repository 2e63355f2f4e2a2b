"""Checkpoints as Git stores them: git-theta's metadata, LFS objects, safetensors files."""
