"""What sweeps and scalings have in common: plans, grids, trials that are computed and scored."""
