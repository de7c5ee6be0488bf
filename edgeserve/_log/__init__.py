"""Replay logs as files: their records, what writes them, and what reads them back."""
