"""A step on several nodes of a cluster: the step's own pod creates and follows a Job with a pod for each node."""
