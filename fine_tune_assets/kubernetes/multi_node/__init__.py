"""A step on several nodes of a cluster: a Job with a pod for each node, made and followed from the step's own pod."""
