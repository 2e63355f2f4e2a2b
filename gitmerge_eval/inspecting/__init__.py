"""What is in checkpoints and histories, laid side by side for people: nothing here changes any."""
