"""`python -m experiments.samplers run=RUN data=FILE out=FOLDER`: see `study`."""

import logging
import sys

from constrained_dg.errors import InputError
from experiments.samplers.study import main

if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: finished cells are saved, and the same command continues")
