"""The command line: one file a group of commands; each reads its options, calls one function and prints."""
