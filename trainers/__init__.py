"""What is learned: objectives on trajectories, and the recipe that strings them together. Loads torch on use."""
