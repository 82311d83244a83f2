"""Labels that this package selects objects by, as Dagster, Kubernetes and Kueue write them."""

RUN_LABEL = "dagster/run-id"
COMPONENT_LABEL = "app.kubernetes.io/component"
JOB_LABELS = ("batch.kubernetes.io/job-name", "job-name")
"""On each pod of a Job: the name of the Job."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
