"""Cluster entry: ray job submit --working-dir . -- python jobs/generate.py MODEL s3://out [flags of artgen generate]"""

import sys

from artgen.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
