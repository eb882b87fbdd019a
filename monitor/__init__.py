"""Shows what happened: reads what the lower layers stored, and writes nothing."""
