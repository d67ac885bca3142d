"""Everything behind the command line `ldm`."""
