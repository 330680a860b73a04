"""Processes that work for others: pools, locks, signs of life, hang reports."""
