"""Acts as a builder through the proxy's door, and says in words where that stops and what to do."""
