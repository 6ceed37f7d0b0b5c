"""Published and own tables, made anew by one command each."""
