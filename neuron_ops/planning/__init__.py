"""Go or no-go before anything is launched: what a recipe would do to a dataset version, from manifests and arithmetic.

No accelerator, no torch, and no import that a process of the orchestrator would feel: tokenizers are imported only
where rows are looked at. Every number that is not a fact is a range, and its assumption stands beside it.
"""
