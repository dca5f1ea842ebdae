"""What runs a recipe: reading it, running its stages side by side, what is remembered of a run, the console."""
