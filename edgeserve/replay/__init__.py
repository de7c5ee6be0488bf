"""Replay logs: reading them, and running them again."""
