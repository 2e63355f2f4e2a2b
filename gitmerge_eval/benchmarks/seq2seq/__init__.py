"""The family of transformers' encoder-decoder models, T5 and mT5: text in, text out."""
