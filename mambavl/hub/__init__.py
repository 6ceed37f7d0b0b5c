"""Stores and heads on a model hub: what is sent, what is fetched, and when either is whole."""
