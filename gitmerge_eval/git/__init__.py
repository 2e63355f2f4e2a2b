"""The only door to Git: commands, configuration, hooks, notes, trees. Never imports torch."""
