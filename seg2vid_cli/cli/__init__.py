"""The `seg2vid` command: commands parse, call the library and print."""

from __future__ import annotations

from seg2vid_cli.cli.app import app, main

__all__ = ["app", "main"]
