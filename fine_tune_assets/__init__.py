"""The Dagster side: what the assets are called, how they depend on each other, and how their steps are launched.

Thin and declarative. Importing it imports no torch, transformers, datasets, boto3 or kubernetes: every process of a
run pays for what stands here.
"""
