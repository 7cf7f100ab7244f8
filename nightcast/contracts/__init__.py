"""The vocabulary every room shares: column names, schemas, predictions, folds, recipes, workloads, errors."""
