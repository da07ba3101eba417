"""The edge: composition, the command line and (later) HTTP."""
