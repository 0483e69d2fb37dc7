"""One process of a run: its peers, its backend, its lock, when it stops, and what it prints."""
