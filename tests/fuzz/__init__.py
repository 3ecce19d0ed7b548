"""Readers of files on bytes that nobody meant: see README.md."""
