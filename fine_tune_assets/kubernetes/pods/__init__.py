"""What a pod is before there is one: the team's settings, and from them and a recipe its configuration."""
