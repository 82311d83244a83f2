"""Where things are kept: artifacts with their manifests, raw datasets, and folders that processes of one node share."""
