"""The latent diffusion family: diffusers' Stable Diffusion with low-rank adapters by peft."""
