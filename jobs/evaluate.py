"""Cluster entry: ray job submit --working-dir . -- python jobs/evaluate.py restorer|gan MODEL DATA [its flags]"""

import sys

from artgen.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
