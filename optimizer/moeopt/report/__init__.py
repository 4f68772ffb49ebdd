"""Answers for people: text, and later pictures."""
