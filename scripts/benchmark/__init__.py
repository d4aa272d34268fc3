"""What `scripts/bench` is made of: the servers, the scenarios, what is measured, and what is said of it."""
