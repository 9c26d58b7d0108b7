"""Corruptions of images as cameras and weather make them, at five strengths: what evaluation sets are made with."""
