"""Reports of finished runs and studies: statistics, tables, plots and HTML pages."""
