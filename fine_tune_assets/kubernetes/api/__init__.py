"""Asking the API of Kubernetes: the one client, its errors as ours, and the kinds and labels of objects."""
