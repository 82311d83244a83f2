"""Compiled graphs: made once by `compile`, taken by `train`, and every one that is missing is noticed."""
