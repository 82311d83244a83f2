"""Recipes: what one may say (schema), reading one from a file (file), and its JSON schema for editors."""
