"""Go or no-go before a launch: what a recipe would do with a dataset version, from manifests and arithmetic.

It needs no accelerator and no torch, and imports nothing that would slow down the orchestrator: tokenizers are imported
only to look at rows. Every number that is not a fact is a range, shown with its assumption.
"""
