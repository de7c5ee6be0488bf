"""Brokers, and what operators put on top of them."""
