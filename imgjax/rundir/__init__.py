"""What lies in a run directory, and the checks before any of it is used."""
