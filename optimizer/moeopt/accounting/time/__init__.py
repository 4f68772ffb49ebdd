"""Step time from mechanisms, one notion a file; `terms.time_terms` puts them together."""
