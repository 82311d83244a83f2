"""Requests to the Kubernetes API: the one client, its errors as ours, and the kinds and labels of objects."""
