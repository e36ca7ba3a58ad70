# SPDX-License-Identifier: MIT
"""`fewbits bench`: any codec on any pictures by any metric, compared and shown. See docs/adr/0008-the-bench.md."""
