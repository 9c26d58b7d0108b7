"""Backdoors planted on purpose: triggers, poisoned training images, victims, and how often an attack succeeds."""
