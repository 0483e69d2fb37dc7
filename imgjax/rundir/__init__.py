"""The files of a run directory, and the checks before any of them is used."""
