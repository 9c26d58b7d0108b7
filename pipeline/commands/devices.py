"""`espalier devices`."""

from __future__ import annotations

import argparse

from devices.errors import EXIT_OK


def list_profiles(_: argparse.Namespace) -> int:
    """List the profiles."""
    from devices.detect import detect_host, matches
    from devices.profile import load_profile, profile_names

    host = detect_host()
    for name in profile_names():
        profile = load_profile(name)
        here = "  (this host)" if matches(profile, host) else ""
        print(f"{name:22} {profile.title}; {profile.engine.runtime}{here}")
    return EXIT_OK


def show(options: argparse.Namespace) -> int:
    """Show one profile."""
    from devices.describe import profile_lines
    from devices.profile import load_profile

    print("\n".join(profile_lines(load_profile(options.name))))
    return EXIT_OK


def detect(_: argparse.Namespace) -> int:
    """Say what this host is."""
    from devices.describe import host_lines
    from devices.detect import detect_host

    print("\n".join(host_lines(detect_host())))
    return EXIT_OK
