"""What is special about running in a Kubernetes cluster; the Kubernetes client is imported as late as it can be."""
