"""Moving and changing weights as bytes: everything `consolidate` and `merge` are made of. numpy, no torch."""
