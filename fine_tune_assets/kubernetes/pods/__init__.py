"""The configuration of a step's pod: the team's settings, and what follows from them and a recipe."""
