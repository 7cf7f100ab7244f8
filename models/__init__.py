"""What learns: catalogs of lazy entries, one file per family, networks, ensembles."""
