"""Dagster's executor with a pod for each asset: its definition, its loop, and its handler of a step's Job."""
