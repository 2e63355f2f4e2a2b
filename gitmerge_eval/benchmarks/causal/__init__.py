"""The family of transformers' decoder-only models, GPT-2, LLaMA and their like: text goes on."""
