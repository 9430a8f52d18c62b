"""Cluster entry: ray job submit --working-dir . -- python jobs/restore.py s3://in s3://out [flags of artgen restore]"""

import sys

from artgen.cli import main

if __name__ == "__main__":
    sys.exit(main(["restore", *sys.argv[1:]]))
