"""Recurrent cores: hidden features and state in, hidden features and state out."""
