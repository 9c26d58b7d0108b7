"""Boards at the other end of ssh."""
