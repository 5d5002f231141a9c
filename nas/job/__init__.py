"""A search job from beginning to end."""
