"""Cluster entry: ray job submit --working-dir . -- python jobs/evaluate.py restorer MODEL DATA [flags of artgen evaluate]"""

import sys

from artgen.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
