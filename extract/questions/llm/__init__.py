"""Questions written by a language model: a client that pays for nothing twice."""
