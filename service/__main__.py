"""`python -m service` is `loyalty-relay`."""

from service.cli.main import main

if __name__ == "__main__":
    main()
