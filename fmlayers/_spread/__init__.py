"""Variables whose rows are spread over hosts, in memory and in files."""
