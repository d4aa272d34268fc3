"""What is cached, what is known about it, and keeping it sound and small enough."""
