"""The engine, built as the service builds it, against registries over real TLS in the same event loop."""
