"""What `mirrortap` can be told to do besides serving, a file a command."""
