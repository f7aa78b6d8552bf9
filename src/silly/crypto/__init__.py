"""Randomness for protocols."""
