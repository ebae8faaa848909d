"""Claims about speed and memory, each as a ratio to a plain formulation measured in the same run."""
