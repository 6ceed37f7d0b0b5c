"""Features in and out of a store: other formats, and features that others made."""
