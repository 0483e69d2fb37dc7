"""Reports of finished runs: statistics, tables, plots and the HTML page."""
