"""Ways in for clients. Adapters only: no decision is taken here."""
