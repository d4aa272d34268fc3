"""What a running proxy says of itself: counted, shared among workers, shown."""
