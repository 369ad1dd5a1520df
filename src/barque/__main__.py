"""`python -m barque` is `barque`."""

from barque.cli.main import main

if __name__ == "__main__":
    main()
