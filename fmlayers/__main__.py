import sys

from fmlayers.cli import main

sys.exit(main())
