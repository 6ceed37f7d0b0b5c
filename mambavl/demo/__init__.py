"""The whole road on a rendered toy kitchen: the data set, the runs, the report."""
