"""``python -m smartcity`` is the command line."""

from smartcity.cli import main

main()
