"""The open_clip family: a CLIP model whose text embeddings are the frozen classifier."""
