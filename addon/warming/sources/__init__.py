"""The images that files name: Dockerfiles, compose files, Kubernetes manifests, plain lists."""
