"""How models are trained, whatever their family: the schedule, the loop, and reproducibility."""
