"""`python -m seg2vid_cli` is `seg2vid`."""

from seg2vid_cli.cli import main

main()
