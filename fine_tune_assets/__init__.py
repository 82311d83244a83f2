"""The Dagster side: what the assets are called, how they depend on each other, and how their steps are launched.

Thin and declarative. Importing it does not import torch, transformers, datasets, boto3 or kubernetes, because every
process of a run pays for these imports.
"""
