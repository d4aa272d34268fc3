"""Who may use the proxy, and where it leads besides registries."""
