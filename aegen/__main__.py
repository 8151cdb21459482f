"""`python -m aegen` and `torchrun -m aegen`."""

from aegen.cli import main

if __name__ == "__main__":
    main()
