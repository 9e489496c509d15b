"""The entropy monitor as a plain callback, for training runs that are not ours."""
