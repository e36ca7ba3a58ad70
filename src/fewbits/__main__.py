# SPDX-License-Identifier: MIT
"""`python -m fewbits`, and so `torchrun -m fewbits`: the command `fewbits`."""

from fewbits.cli import main

if __name__ == "__main__":
    main()
