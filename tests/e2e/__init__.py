"""The real proxy with real clients and registries, over loopback sockets."""
